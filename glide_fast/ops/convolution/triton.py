"""The Triton backend of convolution, 3x3 at stride 1 only; the kernels are in kernels/convolution.py.

It runs where it was measured to be the fastest (:mod:`glide_fast.plans`) and, without a measurement on this device, where it was
faster than cuDNN on an H100 (:mod:`glide_fast.ops.convolution.ways`): at 8x8 pixels and a batch of 1 or 2, and in one layer of
16x16. ``GLIDE_FAST_BACKEND=convolution=triton`` forces it elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.convolution import ways
from glide_fast.ops.convolution.arguments import Call, Facts
from glide_fast.ops.layout import pixel_strides
from glide_fast.plans.file import Plan

SLOWER = "cuDNN was as fast, or nothing like it was measured"
TYPES = (torch.float16, torch.bfloat16)


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if facts.dtype not in TYPES:
        return f"x is {facts.dtype}; the kernels take float16 and bfloat16"
    kernel, stride, padding = facts.window
    if (kernel, stride, padding) != ((3, 3), (1, 1), (1, 1)):
        return f"kernel {kernel}, stride {stride}, padding {padding}; the kernels take 3x3, stride 1 and padding 1"
    if not facts.alike:
        return "the operands are on different devices"
    if facts.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x or residual is not channels-last"
    if not facts.in_place:
        return "weight is packed or not channels-last, or bias is not side by side in memory"
    return triton_runtime.why_not(facts.device, "convolution")


def worth(facts: Facts) -> str | None:
    """Why another should run where nobody asks for these kernels."""
    height, width = facts.size
    way = ways.fastest(facts.batch, height * width, *facts.channels, windows=False)
    return None if way == ways.TRITON else SLOWER


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for a call, the one that it uses by itself first."""
    return triton_runtime.plans("convolution", call)


def run(call: Call, *, plan: Plan | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    kernels, _ = triton_runtime.load("convolution")
    x, weight, residual, y = call.x, call.weight, call.residual, call.empty_result()
    strides = [pixel_strides(t) for t in (x, weight, y if residual is None else residual, y)]
    if kernels is None or None in strides:
        raise RuntimeError("convolution's Triton kernels were called where they decline")
    with torch.cuda.device_of(x):
        cut = None if plan is None else triton_runtime.cut_of(kernels.Plan, plan, kernels.plans_of(call))
        kernels.launch(x, weight, call.bias, residual, y, *strides, cut=cut)
    return y
