"""The Triton backend of output_convolution; the kernels are in kernels/output_convolution.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.output_convolution.arguments import Call, Facts
from glide_fast.plans.file import Plan

TYPES = (torch.float16, torch.float32)
MOST_OUTPUTS = 14  # nine columns of the products each, of 128


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if facts.dtype not in TYPES:
        return f"x is {facts.dtype}; the kernels take float16 and float32"
    if facts.outputs > MOST_OUTPUTS:
        return f"there are {facts.outputs} outputs; the kernels make {MOST_OUTPUTS} at most"
    if facts.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.dense:
        return "x is not channels-last and dense, or bias not side by side in memory"
    return triton_runtime.why_not(facts.device, "output_convolution")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for a call, the one that it uses by itself first."""
    return triton_runtime.plans("output_convolution", call)


def run(call: Call, *, plan: Plan | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    kernels, _ = triton_runtime.load("output_convolution")
    if kernels is None:
        raise RuntimeError("output_convolution's Triton kernels were called where they decline")
    y = call.empty_result()
    with torch.cuda.device_of(call.x):
        cut = None if plan is None else triton_runtime.cut_of(kernels.Plan, plan, kernels.plans_of(call))
        kernels.launch(call.x, call.weight, call.bias, y, cut=cut)
    return y
