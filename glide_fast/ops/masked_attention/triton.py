"""The Triton backend of masked_attention; the kernel is in kernels/masked_attention.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.text_attention.triton import MAX_HEAD_SIZE, MAX_OFFSET, TYPES

if TYPE_CHECKING:
    from glide_fast.ops.masked_attention import Call


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.dtype not in TYPES:
        return f"q is {call.dtype}; the kernel takes float16, bfloat16 and float32"
    if call.head_size > MAX_HEAD_SIZE:
        return f"heads are {call.head_size} wide; the kernel takes {MAX_HEAD_SIZE} at most"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.empty:
        return "q holds no elements"
    if call.huge:
        return f"a sample spans {MAX_OFFSET} elements or more"
    return triton_runtime.why_not(call.device, "masked_attention")


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; ``out`` (of q's shape, any strides) takes the result."""
    kernel, reason = triton_runtime.load("masked_attention")
    if kernel is None:
        raise RuntimeError(f"masked_attention's Triton kernel was called where it declines: {reason}")
    result = q.new_empty(q.shape) if out is None else out
    with torch.cuda.device_of(q):
        kernel.launch(q, k, v, result, heads, causal, lengths)
    return result
