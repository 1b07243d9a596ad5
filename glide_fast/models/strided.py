"""Convolutions with a stride that are right where oneDNN's are not (see :mod:`glide_fast.ops.narrow_convolution`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from glide_fast.ops import narrow_convolution

# What is mixed into torch's layers overrides a method of theirs, which the checker is to see.
_Layer = nn.modules.conv._ConvNd if TYPE_CHECKING else object


class _Strided(_Layer):
    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        convolve = super()._conv_forward
        stride, kernel = self.stride[-1], self.kernel_size[-1]
        around = 0 if isinstance(self.padding, str) else self.padding[-1]
        width = (input.shape[-1] + 2 * around - self.dilation[-1] * (kernel - 1) - 1) // stride + 1
        if narrow_convolution.why_wrong(input.device.type, input.dtype, stride, width) is None:
            return convolve(input, weight, bias)
        return narrow_convolution.in_fp32(convolve, input, weight, bias)


class StridedConv1d(_Strided, nn.Conv1d):
    """``nn.Conv1d``."""


class StridedConv2d(_Strided, nn.Conv2d):
    """``nn.Conv2d``."""


class StridedConv3d(_Strided, nn.Conv3d):
    """``nn.Conv3d``."""
