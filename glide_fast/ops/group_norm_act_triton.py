"""The Triton backend of group_norm_act; the kernels are in kernels/group_norm_act.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.layout import channel_rows

if TYPE_CHECKING:
    from glide_fast.ops.group_norm_act import Call

TYPES = (torch.float16, torch.bfloat16, torch.float32)


def supports(call: Call) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    for name, dtype in (("x", call.dtype), ("weight", call.affine_dtype), ("scale", call.film_dtype)):
        if dtype is not None and dtype not in TYPES:
            return f"{name} is {dtype}; the kernels take float16, bfloat16 and float32"
    if not call.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on x's device"
    if call.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if call.tracing:
        return "torch.compile is tracing; the custom op glide_fast::group_norm_act stands for the call there"
    if call.empty:
        return "x holds no elements"
    if not call.channels_last:
        return "x is not channels-last"
    return triton_runtime.why_not(call.device, "group_norm_act")


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; ``out`` (shape and type of ``x``, channels-last) takes the result."""
    kernels, _ = triton_runtime.load("group_norm_act")
    y = torch.empty_like(x) if out is None else out
    x_strides, y_strides = channel_rows(x), channel_rows(y)
    if kernels is None or x_strides is None or y_strides is None:
        raise RuntimeError("group_norm_act's Triton kernels were called where they decline")
    positions = x.numel() // (x.shape[0] * x.shape[1])
    with torch.cuda.device_of(x):
        kernels.launch(
            x, y, (*x_strides, *y_strides), positions, weight, bias, groups, eps, scale, shift, silu
        )
    return y
