"""The Triton backend of text_attention; the kernel is in kernels/text_attention.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.text_attention import packed_heads

if TYPE_CHECKING:
    from glide_fast.ops.text_attention import Call

TYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_HEAD_SIZE = 128
MAX_OFFSET = 2**31  # elements: within a sample the kernel counts in 32 bits
MAX_HEADS = 65535  # of all samples together: the second dimension of its grid


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.dtype not in TYPES:
        return f"qkv is {call.dtype}; the kernel takes float16, bfloat16 and float32"
    if not call.alike:
        return "encoder_kv differs from qkv in type or device"
    if call.head_size > MAX_HEAD_SIZE:
        return f"heads are {call.head_size} wide; the kernel takes {MAX_HEAD_SIZE} at most"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.empty:
        return "qkv holds no elements"
    if call.huge:
        return f"a sample spans {MAX_OFFSET} elements or more, or the batch has more than {MAX_HEADS} heads"
    return triton_runtime.why_not(call.device, "text_attention")


def run(
    qkv: torch.Tensor,
    heads: int,
    encoder_kv: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    The result is laid out as ``qkv`` is: tokens side by side, or channels. ``out`` (any strides) takes it instead.
    """
    kernel, reason = triton_runtime.load("text_attention")
    if kernel is None:
        raise RuntimeError(f"text_attention's Triton kernel was called where it declines: {reason}")
    result = packed_heads.empty_result(qkv) if out is None else out
    with torch.cuda.device_of(qkv):
        kernel.launch(qkv, result, heads, encoder_kv)
    return result
