"""The Triton backend of group_norm_act; the kernels are in kernels/group_norm_act.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result, in_batches, result_rows, why_not
from glide_fast.ops.layout import channel_rows
from glide_fast.plans.file import Plan

TYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_SAMPLES = 65535  # of one launch: they are the last dimension of a grid


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    return why_not(facts, TYPES) or triton_runtime.why_not(facts.device, "group_norm_act")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for a call, the one that it uses by itself first; none for more samples than a launch."""
    return iter(()) if call.x.shape[0] > MOST_SAMPLES else triton_runtime.plans("group_norm_act", call)


def run(call: Call, *, out: Result | None = None, cut: Any = None, plan: Plan | None = None) -> Result:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels-last) takes the result; ``cut`` stands in place of what the kernels' ``plan`` says of the shape.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    kernels, _ = triton_runtime.load("group_norm_act")
    if kernels is None:
        raise RuntimeError("group_norm_act's Triton kernels were called where they decline")
    if plan is not None:
        cut = triton_runtime.cut_of(kernels.Plan, plan, kernels.plans_of(call))
    result = call.empty_result() if out is None else out
    with torch.cuda.device_of(call.x):
        for part, its_result in in_batches(call, result, MOST_SAMPLES):
            _launch(kernels, part, its_result, cut)
    return result


def _launch(kernels: Any, call: Call, result: Result, cut: Any) -> None:
    def rows(tensor: torch.Tensor | None, strides: tuple[int, int] | None) -> object:
        if tensor is None:
            return None
        if strides is None:
            raise RuntimeError("group_norm_act's Triton kernels were called with a tensor not channels-last")
        return kernels.Rows(tensor, *strides)

    total = result.sum if call.adds else None
    kernels.launch(
        rows(call.x, call.x_rows),
        rows(result.y, result_rows(call, result.y)),
        call.positions,
        call.weight,
        call.bias,
        call.groups,
        call.eps,
        call.scale,
        call.shift,
        call.silu,
        x2=rows(call.x2, call.x2_rows),
        residual=rows(call.residual, call.residual_rows),
        x_bias=call.x_bias,
        total=rows(total, None if total is None else channel_rows(total)),
        resample=call.resample,
        width=call.x.shape[-1] if call.resample or call.windows else 0,
        windows=call.windows,
        cut=cut,
    )
