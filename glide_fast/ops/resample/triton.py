"""The Triton backend of resample; the kernel is in kernels/resample.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import dependent_launch, triton_runtime
from glide_fast.ops.layout import pixel_strides
from glide_fast.ops.resample.arguments import NEAREST_X2, Call, Facts, why_not
from glide_fast.plans.file import Plan

TYPES = (torch.float16, torch.bfloat16, torch.float32)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    return why_not(facts, TYPES) or triton_runtime.why_not(facts.device, "resample")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for a call, the one that it uses by itself first."""
    return triton_runtime.plans("resample", call)


def run(call: Call, *, out: torch.Tensor | None = None, plan: Plan | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; ``out`` (channels side by side) takes the result.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    kernels, _ = triton_runtime.load("resample")
    x, bias, residual = call.x, call.bias, call.residual
    y = call.empty_result() if out is None else out
    x_strides, y_strides = pixel_strides(x), pixel_strides(y)
    residual_strides = x_strides if residual is None else pixel_strides(residual)
    if kernels is None or x_strides is None or y_strides is None or residual_strides is None:
        raise RuntimeError("resample's Triton kernel was called where it declines")
    cut = None if plan is None else triton_runtime.cut_of(kernels.Tile, plan, kernels.plans_of(call))
    up = call.mode == NEAREST_X2
    with torch.cuda.device_of(x):
        kernels.launch(
            x,
            y,
            bias,
            residual,
            up,
            x_strides,
            y_strides,
            residual_strides,
            cut,
            dependent_launch.wanted(x.device),
        )
    return y
