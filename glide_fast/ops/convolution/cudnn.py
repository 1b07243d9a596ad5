"""torch's own convolution as a backend of convolution, for CUDA devices: cuDNN, with bias and residual after it.

cuDNN's bias is a launch of its own in torch, and so is the residual. On a device the runtime therefore convolves without
either and hands both to the norm that comes next, which adds them where it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from glide_fast.ops.convolution.window import as_kernel

if TYPE_CHECKING:
    from glide_fast.ops.convolution import Call


def supports(call: Call) -> str | None:
    """Why it cannot serve this call, or None."""
    if call.device != "cuda":
        return f"x is on {call.device}, not on a CUDA device"
    if not call.alike:
        return "the operands are on different devices"
    return None


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; differentiable. Any layout; channels-last is the fast one."""
    y = F.conv2d(x, as_kernel(weight), None if bias is None else bias.to(x.dtype), stride, padding)
    return y if residual is None else y + residual
