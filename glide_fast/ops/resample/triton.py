"""The Triton backend of resample; the kernel is in kernels/resample.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.layout import empty_pixels, pixel_strides

if TYPE_CHECKING:
    from glide_fast.ops.resample import Call

TYPES = (torch.float16, torch.bfloat16, torch.float32)


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    for name, dtype in (("x", call.dtype), ("bias", call.bias_dtype)):
        if dtype is not None and dtype not in TYPES:
            return f"{name} is {dtype}; the kernel takes float16, bfloat16 and float32"
    if not call.together:
        return "bias or residual is not on x's device, or bias is not side by side in memory"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.empty:
        return "x holds no elements"
    if not call.channels_last:
        return "x or residual is not channels-last"
    return triton_runtime.why_not(call.device, "resample")


def run(
    x: torch.Tensor,
    mode: str,
    *,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; ``out`` (channels side by side) takes the result."""
    kernels, _ = triton_runtime.load("resample")
    n, channels, height, width = x.shape
    up = mode == "nearest_x2"
    shape = (n, channels, 2 * height, 2 * width) if up else (n, channels, height // 2, width // 2)
    y = empty_pixels(x, shape) if out is None else out
    x_strides, y_strides = pixel_strides(x), pixel_strides(y)
    residual_strides = x_strides if residual is None else pixel_strides(residual)
    if kernels is None or x_strides is None or y_strides is None or residual_strides is None:
        raise RuntimeError("resample's Triton kernel was called where it declines")
    with torch.cuda.device_of(x):
        kernels.launch(x, y, bias, residual, up, x_strides, y_strides, residual_strides)
    return y
