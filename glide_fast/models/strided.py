"""Convolutions with a stride that are right where oneDNN's are not (see :mod:`glide_fast.ops.convolution.narrow`)."""

from __future__ import annotations

import torch
from torch import nn

from glide_fast.ops.convolution import narrow as narrow_convolution


def _right(
    layer: nn.modules.conv._ConvNd,
    convolve: narrow_convolution.Convolve,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    stride, kernel = layer.stride[-1], layer.kernel_size[-1]
    around = 0 if isinstance(layer.padding, str) else layer.padding[-1]
    width = (x.shape[-1] + 2 * around - layer.dilation[-1] * (kernel - 1) - 1) // stride + 1
    if narrow_convolution.why_wrong(x.device.type, x.dtype, stride, width) is None:
        return convolve(x, weight, bias)
    return narrow_convolution.in_fp32(convolve, x, weight, bias)


class StridedConv1d(nn.Conv1d):
    """``nn.Conv1d``."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return _right(self, super()._conv_forward, input, weight, bias)


class StridedConv2d(nn.Conv2d):
    """``nn.Conv2d``."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return _right(self, super()._conv_forward, input, weight, bias)


class StridedConv3d(nn.Conv3d):
    """``nn.Conv3d``."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return _right(self, super()._conv_forward, input, weight, bias)
