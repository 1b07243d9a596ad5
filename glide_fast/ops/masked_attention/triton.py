"""The Triton backend of masked_attention; the kernel is in kernels/masked_attention.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.attention import MAX_HEAD_SIZE, MAX_OFFSET, TRITON_TYPES
from glide_fast.ops.masked_attention.arguments import Call, Facts
from glide_fast.plans.file import Plan


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.dtype not in TRITON_TYPES:
        return f"q is {facts.dtype}; the kernel takes float16, bfloat16 and float32"
    if facts.head_size > MAX_HEAD_SIZE:
        return f"heads are {facts.head_size} wide; the kernel takes {MAX_HEAD_SIZE} at most"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "q holds no elements"
    if facts.huge:
        return f"a sample spans {MAX_OFFSET} elements or more"
    return triton_runtime.why_not(facts.device, "masked_attention")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for a call, the one that it uses by itself first."""
    return triton_runtime.plans("masked_attention", call)


def run(call: Call, *, out: torch.Tensor | None = None, plan: Plan | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; ``out`` (of q's shape, any strides) takes the result.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    kernel, reason = triton_runtime.load("masked_attention")
    if kernel is None:
        raise RuntimeError(f"masked_attention's Triton kernel was called where it declines: {reason}")
    result = call.empty_result() if out is None else out
    with torch.cuda.device_of(call.q):
        cut = None if plan is None else triton_runtime.cut_of(kernel.Tiles, plan, kernel.plans_of(call))
        kernel.launch(call.q, call.k, call.v, result, call.heads, call.causal, call.lengths, cut)
    return result
