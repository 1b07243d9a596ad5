"""The C++ backend of text_attention for CPUs; the kernel is csrc/attention/cpu.kernel.cpp, or with AMX cpu.amx.cpp."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import attention, native
from glide_fast.ops.attention import HEAD_SIZES, TYPE_CODES
from glide_fast.ops.text_attention.arguments import Call, Facts
from glide_fast.plans.file import Plan


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"qkv is on {facts.device}, not on the CPU"
    if facts.dtype not in TYPE_CODES:
        return f"qkv is {facts.dtype}; the kernel takes float32 and bfloat16"
    if not facts.alike:
        return "encoder_kv differs from qkv in type or device"
    if facts.head_size not in HEAD_SIZES:
        return f"heads are {facts.head_size} wide; the kernel takes {', '.join(map(str, HEAD_SIZES))}"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "qkv holds no elements"
    for name, side_by_side in (("qkv", facts.channels_last), ("encoder_kv", facts.text_channels_last)):
        if not side_by_side:
            return f"a token's channels in {name} are not side by side"
    return native.why_missing()


def worth(facts: Facts) -> str | None:
    """Why SDPA or the reference is the better choice where nobody asks for this one, or None.

    On two cores of a Xeon with AMX the kernel without tiles took 131 of a base step's 452 ms for the calls of 1024 queries; with
    SDPA for all calls the step took 365 ms. Shorter sequences were not measured apart.
    """
    if facts.dtype == torch.bfloat16 and facts.long and attention.tiles_are_left_to_torch():
        return "torch's attention multiplies in this processor's AMX tiles, the kernel was compiled without; force it to compare"
    return attention.cpu_worth(facts)


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for this call, the best guess first: an instruction set."""
    return attention.cpu_plans(call.qkv.dtype)


def run(
    call: Call,
    *,
    out: torch.Tensor | None = None,
    isa: str = "",
    plan: Plan | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    ``out`` (shape and type of the result, a token's channels side by side) takes it; ``isa`` forces one of
    ``glide_fast._C.isas()``; "amx" is for bf16, and fp32 runs as with "avx512_bf16" there. Runs on
    ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number. The calling thread keeps
    the kernel's scratch memory for the next call: for each thread that worked, a head's keys and values, and some 50 KiB.
    ``plan`` is one of :func:`plans`, in place of ``isa``.

    Raises:
        ValueError: for a plan that is none of them.
    """
    library, qkv, text = native.load(), call.qkv, call.encoder_kv
    if text is not None and not text.shape[2]:
        text = None
    result = call.empty_result() if out is None else out
    if library is None or any(t is not None and t.stride(1) != 1 for t in (qkv, text, result)):
        raise RuntimeError("text_attention's CPU kernel was called where it declines")
    library.text_attention(
        qkv.data_ptr(),
        0 if text is None else text.data_ptr(),
        result.data_ptr(),
        TYPE_CODES[qkv.dtype],
        qkv.shape[0],
        call.heads,
        call.head_size,
        qkv.shape[2],
        0 if text is None else text.shape[2],
        qkv.stride(0),
        qkv.stride(2),
        0 if text is None else text.stride(0),
        0 if text is None else text.stride(2),
        result.stride(0),
        result.stride(2),
        torch.get_num_threads(),
        attention.planned_isa(plan, qkv.dtype, isa),
    )
    return result
