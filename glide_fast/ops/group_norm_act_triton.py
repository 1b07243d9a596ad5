"""The Triton backend of group_norm_act; the kernels are in kernels/group_norm_act.py."""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.group_norm_act_call import Call, Facts, Result
from glide_fast.ops.layout import channel_rows

TYPES = (torch.float16, torch.bfloat16, torch.float32)


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    types = (
        ("x", facts.dtype),
        ("weight", facts.affine_dtype),
        ("scale", facts.film_dtype),
        ("x_bias", facts.x_bias_dtype),
    )
    for name, dtype in types:
        if dtype is not None and dtype not in TYPES:
            return f"{name} is {dtype}; the kernels take float16, bfloat16 and float32"
    if not facts.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on x's device"
    if facts.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if facts.tracing:
        return "torch.compile is tracing; the custom op glide_fast::group_norm_act stands for the call there"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x, x2 or residual is not channels-last"
    return triton_runtime.why_not(facts.device, "group_norm_act")


def run(call: Call, *, out: Result | None = None, cut: Any = None) -> Result:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels-last) takes the result; ``cut`` stands in place of what the kernels' ``plan`` says of the shape.
    """
    kernels, _ = triton_runtime.load("group_norm_act")
    result = call.empty_result() if out is None else out
    total = result.sum if call.adds else None
    y_rows = channel_rows(result.y)
    total_rows = (0, 0) if total is None else channel_rows(total)
    if kernels is None or call.x_rows is None or y_rows is None or total_rows is None:
        raise RuntimeError("group_norm_act's Triton kernels were called where they decline")

    def rows(tensor: torch.Tensor | None, strides: tuple[int, int] | None) -> object:
        return None if tensor is None or strides is None else kernels.Rows(tensor, *strides)

    with torch.cuda.device_of(call.x):
        kernels.launch(
            rows(call.x, call.x_rows),
            rows(result.y, y_rows),
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
            total=rows(total, total_rows),
            resample=call.resample,
            width=call.x.shape[-1] if call.resample else 0,
            cut=cut,
        )
    return result
