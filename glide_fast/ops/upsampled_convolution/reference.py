"""The maths of upsampled_convolution in plain torch: the ground truth."""

from __future__ import annotations

import torch

from glide_fast.ops.convolution.reference import reference as convolution
from glide_fast.ops.upsampled_convolution.places import interleave_reference


def reference(x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The result of :func:`~glide_fast.ops.upsampled_convolution.upsampled_convolution`; differentiable."""
    return interleave_reference(convolution(x, weights, bias, None, (1, 1), (1, 1)))
