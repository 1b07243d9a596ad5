"""The C++ backend of text_attention for CPUs; the kernel is csrc/attention/cpu.kernel.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import native
from glide_fast.ops.text_attention import packed_heads

if TYPE_CHECKING:
    from glide_fast.ops.text_attention import Call

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
HEAD_SIZES = (32, 64, 128)


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.device != "cpu":
        return f"qkv is on {call.device}, not on the CPU"
    if call.dtype not in TYPE_CODES:
        return f"qkv is {call.dtype}; the kernel takes float32 and bfloat16"
    if not call.alike:
        return "encoder_kv differs from qkv in type or device"
    if call.head_size not in HEAD_SIZES:
        return f"heads are {call.head_size} wide; the kernel takes {', '.join(map(str, HEAD_SIZES))}"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.empty:
        return "qkv holds no elements"
    for name, side_by_side in (("qkv", call.channels_last), ("encoder_kv", call.text_channels_last)):
        if not side_by_side:
            return f"a token's channels in {name} are not side by side"
    return native.why_missing()


def worth(call: object) -> str | None:
    """Why SDPA or the reference is the better choice where nobody asks for this one, or None.

    On an AVX-512 core SDPA with its concatenations took 4.6 times (bf16) as long as this kernel with AVX-512 BF16, 2.5 times with
    plain AVX-512, and 1.3 times with AVX2, at every size of GLIDE; docs/kernels.md has the table.
    """
    library = native.load()
    if library is not None and library.isas()[0] == "portable":
        return "without AVX2 it takes twice the time of SDPA; force it to compare"
    return None


def run(
    qkv: torch.Tensor,
    heads: int,
    encoder_kv: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
    isa: str = "",
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    ``out`` (shape and type of the result, a token's channels side by side) takes it; ``isa`` forces one of
    ``glide_fast._C.isas()``. Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for
    any number. The calling thread keeps the kernel's scratch memory for the next call: for each thread that worked, a head's
    keys and values, and some 50 KiB.
    """
    library = native.load()
    text = None if encoder_kv is None or encoder_kv.shape[2] == 0 else encoder_kv
    result = packed_heads.empty_result(qkv) if out is None else out
    if library is None or any(t is not None and t.stride(1) != 1 for t in (qkv, text, result)):
        raise RuntimeError("text_attention's CPU kernel was called where it declines")
    library.text_attention(
        qkv.data_ptr(),
        0 if text is None else text.data_ptr(),
        result.data_ptr(),
        TYPE_CODES[qkv.dtype],
        qkv.shape[0],
        heads,
        qkv.shape[1] // (3 * heads),
        qkv.shape[2],
        0 if text is None else text.shape[2],
        qkv.stride(0),
        qkv.stride(2),
        0 if text is None else text.stride(0),
        0 if text is None else text.stride(2),
        result.stride(0),
        result.stride(2),
        torch.get_num_threads(),
        isa,
    )
    return result
