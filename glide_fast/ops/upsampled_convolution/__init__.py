"""A 3x3 convolution of a picture repeated 2x2 times, from the small picture.

Replaces the nearest-neighbour upsampling and the convolution behind it in GLIDE's residual blocks (``ResBlock`` with ``up`` of
the released ``unet.py``). Each pixel of the result sees 2x2 different pixels only, some of them several times: for each of its
four places within a pixel of the small picture, the weights that meet the same pixel are added up beforehand, and a 2x2
convolution of the small picture remains. That is 16 products instead of 36 for the four, besides a border of one pixel.
"""

from __future__ import annotations

import torch

from glide_fast.ops.convolution import convolution
from glide_fast.ops.upsampled_convolution.arguments import Call, check_arguments
from glide_fast.ops.upsampled_convolution.places import interleave, place_weights

__all__ = ["place_weights", "upsampled_convolution"]


def upsampled_convolution(
    x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``conv2d(interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)``.

    Args:
        x: ``[N, C, H, W]``, as :func:`glide_fast.ops.convolution.convolution` takes it.
        weights: :func:`~glide_fast.ops.upsampled_convolution.places.place_weights` of ``weight``, packed or not; of x's type.
        bias: ``[4 O]``, the bias of each place, or None.

    Returns:
        ``[N, O, 2 H, 2 W]`` in x's type, channels-last. Sums are taken in fp32 and rounded once.

    Raises:
        InvalidInputError: for arguments outside this contract.
    """
    check_arguments(Call(x, weights, bias))
    # Padded on all sides, the 2x2 windows of the right and lower places begin one pixel after those of the left and upper ones.
    return interleave(convolution(x, weights, bias, padding=1))
