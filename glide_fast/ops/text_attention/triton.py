"""The Triton backend of text_attention; the kernel is in kernels/text_attention.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from glide_fast.ops import dependent_launch, triton_runtime
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
    """Every cut of the kernel worth timing for this call, the default first: fields of ``Tiles`` in kernels/text_attention.py."""
    return (dict(cut._asdict()) for cut in _kernel().plans_of(call))


def run(call: Call, *, out: torch.Tensor | None = None, plan: Plan | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    The result is laid out as ``qkv`` is: tokens side by side, or channels. ``out`` (any strides) takes it instead.

    Args:
        plan: one of :func:`plans`; None is the default.

    Raises:
        ValueError: a plan that the kernel cannot follow for this call.
    """
    kernel = _kernel()
    cut = None if plan is None else _cut(kernel, call, plan)
    result = call.empty_result() if out is None else out
    with torch.cuda.device_of(call.qkv):
        dependent = dependent_launch.wanted(call.qkv.device)
        kernel.launch(call.qkv, result, call.heads, call.encoder_kv, cut, dependent)
    return result


def _kernel() -> Any:
    kernel, reason = triton_runtime.load("text_attention")
    if kernel is None:
        raise RuntimeError(f"text_attention's Triton kernel was called where it declines: {reason}")
    return kernel


def _cut(kernel: Any, call: Call, plan: Plan) -> Any:
    """The plan as ``Tiles``; ValueError where the kernel cannot follow it."""
    names = kernel.Tiles._fields
    if set(plan) != set(names) or not all(type(value) is int for value in plan.values()):
        raise ValueError(f"plan: got {plan}; accepted: integers for {', '.join(names)}")
    cut = kernel.Tiles(**plan)
    reason = cut.why_not(call.head_size, call.qkv.element_size())
    if reason is not None:
        raise ValueError(f"plan: got {reason}")
    return cut
