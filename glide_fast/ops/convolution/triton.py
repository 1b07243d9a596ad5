"""The Triton backend of convolution, 3x3 at stride 1 only; the kernels are in kernels/convolution.py.

Off unless forced (``GLIDE_FAST_BACKEND=convolution=triton``): cuDNN stays in its place until a measurement on a device says that
splitting the sum of the 8x8 and 16x16 levels pays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.layout import pixel_strides

if TYPE_CHECKING:
    from glide_fast.ops.convolution import Call

UNMEASURED = "it was never measured on a device; it runs where it is forced"
TYPES = (torch.float16, torch.bfloat16)


def supports(call: Call) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if call.dtype not in TYPES:
        return f"x is {call.dtype}; the kernels take float16 and bfloat16"
    kernel, stride, padding = call.window
    if (kernel, stride, padding) != ((3, 3), (1, 1), (1, 1)):
        return f"kernel {kernel}, stride {stride}, padding {padding}; the kernels take 3x3, stride 1 and padding 1"
    if not call.alike:
        return "the operands are on different devices"
    if call.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if call.empty:
        return "x holds no elements"
    if not call.channels_last:
        return "x or residual is not channels-last"
    if not call.in_place:
        return "weight is packed or not channels-last, or bias is not side by side in memory"
    return triton_runtime.why_not(call.device, "convolution")


def worth(call: Call) -> str | None:
    """Why another should run where nobody asks for these kernels."""
    return UNMEASURED


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts."""
    kernels, _ = triton_runtime.load("convolution")
    n, _, height, width = x.shape
    y = torch.empty(
        (n, weight.shape[0], height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    strides = [pixel_strides(t) for t in (x, weight, y if residual is None else residual, y)]
    if kernels is None or None in strides:
        raise RuntimeError("convolution's Triton kernels were called where they decline")
    with torch.cuda.device_of(x):
        kernels.launch(x, weight, bias, residual, y, *strides)
    return y
