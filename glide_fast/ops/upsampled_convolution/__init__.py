"""A 3x3 convolution of a picture repeated 2x2 times, from the small picture.

Replaces the nearest-neighbour upsampling and the convolution behind it in GLIDE's residual blocks (``ResBlock`` with ``up`` of
the released ``unet.py``). A 3x3 window of the repeated picture covers only 2x2 different pixels of the small one, some of them
several times. Which ones it covers depends on the place of the result's pixel in its 2x2 block: upper left, upper right, lower
left or lower right. So for each place the weights that meet the same pixel are added up beforehand, and a 2x2 convolution of
the small picture remains: 16 products instead of 36 for a block, and a border of one pixel that is computed and dropped.
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
        bias: ``[4 O]``, the convolution's bias repeated for each of the four places, or None.

    Returns:
        ``[N, O, 2 H, 2 W]`` in x's type, channels-last. Sums are taken in fp32 and rounded once.

    Raises:
        InvalidInputError: for arguments outside this contract.
    """
    check_arguments(Call(x, weights, bias))
    # With padding on all sides, the 2x2 windows of the right places begin one pixel after those of the left ones, and the windows
    # of the lower places one pixel after those of the upper ones: interleave() drops the border that a place does not need.
    return interleave(convolution(x, weights, bias, padding=1))
