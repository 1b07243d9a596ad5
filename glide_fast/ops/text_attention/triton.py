"""The Triton backend of text_attention; the kernel is in kernels/text_attention.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.attention import MAX_HEAD_SIZE, MAX_OFFSET, TRITON_TYPES
from glide_fast.ops.text_attention.arguments import MAX_HEADS, Call, Facts
from glide_fast.plans.file import Plan


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.dtype not in TRITON_TYPES:
        return f"qkv is {facts.dtype}; the kernel takes float16, bfloat16 and float32"
    if not facts.alike:
        return "encoder_kv differs from qkv in type or device"
    if facts.head_size > MAX_HEAD_SIZE:
        return f"heads are {facts.head_size} wide; the kernel takes {MAX_HEAD_SIZE} at most"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "qkv holds no elements"
    if facts.huge:
        return f"a sample spans {MAX_OFFSET} elements or more, or the batch has more than {MAX_HEADS} heads"
    return triton_runtime.why_not(facts.device, "text_attention")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for a call, the one that it uses by itself first."""
    kernel, _ = triton_runtime.load("text_attention")
    return (cut._asdict() for cut in kernel.plans_of(call)) if kernel is not None else iter(())


def run(call: Call, *, out: torch.Tensor | None = None, plan: Plan | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    The result is laid out as ``qkv`` is: tokens side by side, or channels. ``out`` (any strides) takes it instead.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    kernel, reason = triton_runtime.load("text_attention")
    if kernel is None:
        raise RuntimeError(f"text_attention's Triton kernel was called where it declines: {reason}")
    result = call.empty_result() if out is None else out
    with torch.cuda.device_of(call.qkv):
        cut = None if plan is None else triton_runtime.cut_of(kernel.Tiles, plan, kernel.plans_of(call))
        kernel.launch(call.qkv, result, call.heads, call.encoder_kv, cut)
    return result
