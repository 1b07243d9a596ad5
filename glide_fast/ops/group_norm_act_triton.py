"""The Triton backend of group_norm_act; the kernels are in kernels/group_norm_act.py."""

from __future__ import annotations

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.group_norm_act_call import Call, Facts, Result
from glide_fast.ops.layout import channel_rows

TYPES = (torch.float16, torch.bfloat16, torch.float32)


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    for name, dtype in (("x", facts.dtype), ("weight", facts.affine_dtype), ("scale", facts.film_dtype)):
        if dtype is not None and dtype not in TYPES:
            return f"{name} is {dtype}; the kernels take float16, bfloat16 and float32"
    if facts.extras:
        return f"{facts.extras} given; the kernels take none of these"
    if not facts.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on x's device"
    if facts.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if facts.tracing:
        return "torch.compile is tracing; the custom op glide_fast::group_norm_act stands for the call there"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x is not channels-last"
    return triton_runtime.why_not(facts.device, "group_norm_act")


def run(call: Call, *, out: Result | None = None) -> Result:
    """The op for calls that :func:`supports` accepts; ``out`` (channels-last) takes the result."""
    kernels, _ = triton_runtime.load("group_norm_act")
    result = call.empty_result() if out is None else out
    x, y = call.x, result.y
    x_strides, y_strides = call.x_rows, channel_rows(y)
    if kernels is None or x_strides is None or y_strides is None:
        raise RuntimeError("group_norm_act's Triton kernels were called where they decline")
    with torch.cuda.device_of(x):
        kernels.launch(
            x,
            y,
            (*x_strides, *y_strides),
            call.positions,
            call.weight,
            call.bias,
            call.groups,
            call.eps,
            call.scale,
            call.shift,
            call.silu,
        )
    return result
