"""The C++ backend of resample for CPUs; the kernel is csrc/resample/cpu.kernel.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import native
from glide_fast.ops.layout import empty_pixels, pixel_strides

if TYPE_CHECKING:
    from glide_fast.ops.resample import Call

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.device != "cpu":
        return f"x is on {call.device}, not on the CPU"
    for name, dtype in (("x", call.dtype), ("bias", call.bias_dtype)):
        if dtype is not None and dtype not in TYPE_CODES:
            return f"{name} is {dtype}; the kernel takes float32 and bfloat16"
    if not call.together:
        return "bias or residual is not on the CPU, or bias is not side by side in memory"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.empty:
        return "x holds no elements"
    if not call.channels_last:
        return "x or residual is not channels-last"
    return native.why_missing()


def run(
    x: torch.Tensor,
    mode: str,
    *,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    isa: str = "",
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels side by side) takes the result; ``isa`` forces one of ``glide_fast._C.isas()``. Runs on
    ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library = native.load()
    n, channels, height, width = x.shape
    up = mode == "nearest_x2"
    shape = (n, channels, 2 * height, 2 * width) if up else (n, channels, height // 2, width // 2)
    y = empty_pixels(x, shape) if out is None else out
    x_strides, y_strides = pixel_strides(x), pixel_strides(y)
    residual_strides = (0, 0, 0) if residual is None else pixel_strides(residual)
    if library is None or x_strides is None or y_strides is None or residual_strides is None:
        raise RuntimeError("resample's CPU kernel was called where it declines")
    library.resample(
        x.data_ptr(),
        y.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        TYPE_CODES[x.dtype],
        0 if bias is None else bias.data_ptr(),
        0 if bias is None else TYPE_CODES[bias.dtype],
        up,
        (n, height, width, channels),
        x_strides,
        y_strides,
        residual_strides,
        torch.get_num_threads(),
        isa,
    )
    return y
