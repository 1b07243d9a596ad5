"""A 3x3 convolution of a picture repeated 2x2 times, from the small picture.

Replaces the nearest-neighbour upsampling and the convolution behind it in GLIDE's residual blocks (``ResBlock`` with ``up`` of
the released ``unet.py``). Each pixel of the result sees 2x2 different pixels only, some of them several times: for each of its
four places within a pixel of the small picture, the weights that meet the same pixel are added up beforehand, and a 2x2
convolution of the small picture remains. That is 16 products instead of 36 for the four, besides a border of one pixel.
"""

from __future__ import annotations

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, native, plain_tensor
from glide_fast.ops.convolution import convolution

PLACES = 4


def place_weights(weight: torch.Tensor) -> torch.Tensor:
    """The 2x2 weights of the four places: upper left, upper right, lower left, lower right.

    Args:
        weight: ``[O, C, 3, 3]``.

    Returns:
        ``[4 O, C, 2, 2]``, a place after another, summed in fp32 (fp64 for fp64) and rounded to the weight's type.

    Raises:
        InvalidInputError: for a weight of another kernel.
    """
    checks.tensors(("weight",), (weight,), 1)
    checks.floating("weight", weight)
    if weight.dim() != 4 or weight.shape[2:] != (3, 3):
        raise invalid("weight", tuple(weight.shape), "a weight of shape [O, C, 3, 3]")
    top, middle, bottom = weight.to(torch.promote_types(weight.dtype, torch.float32)).unbind(2)
    places = []
    for rows in ((top, middle + bottom), (top + middle, bottom)):
        for left in (True, False):
            taps = []
            for row in rows:
                first, second, third = row.unbind(2)
                taps += [first, second + third] if left else [first + second, third]
            places.append(torch.stack(taps, dim=2).unflatten(2, (2, 2)))
    return torch.cat(places).to(weight.dtype)


def upsampled_convolution(
    x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``conv2d(interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)``.

    Args:
        x: ``[N, C, H, W]``, as :func:`glide_fast.ops.convolution.convolution` takes it.
        weights: :func:`place_weights` of ``weight``, packed or not; of x's type.
        bias: ``[4 O]``, the bias of each place, or None.

    Returns:
        ``[N, O, 2 H, 2 W]`` in x's type, channels-last. Sums are taken in fp32 and rounded once.

    Raises:
        InvalidInputError: for arguments outside this contract.
    """
    checks.tensors(("x", "weights", "bias"), (x, weights, bias), 2)
    if weights.dim() != 4 or weights.shape[0] % PLACES or weights.shape[2:] != (2, 2):
        raise invalid("weights", tuple(weights.shape), "place_weights(weight), of shape [4 O, C, 2, 2]")
    # Padded on all sides, the 2x2 windows of the right and lower places begin one pixel after those of the left and upper ones.
    return _interleave(convolution(x, weights, bias, padding=1))


def _interleave(places: torch.Tensor) -> torch.Tensor:
    """``[N, 4 O, H + 1, W + 1]`` to ``[N, O, 2 H, 2 W]``: each place's pixels to where they belong."""
    n, channels, height, width = places.shape
    outputs, height, width = channels // PLACES, height - 1, width - 1
    pixels = places.permute(0, 2, 3, 1)
    if _needs_torch(places):
        parts = _parts(pixels)
        upper, lower = torch.stack(parts[:2], 3), torch.stack(parts[2:], 3)
        together = torch.stack([upper, lower], 2).reshape(n, 2 * height, 2 * width, outputs)
        return together.permute(0, 3, 1, 2)
    y = torch.empty((n, height, 2, width, 2, outputs), dtype=places.dtype, device=places.device)
    library = native.load()
    if library is not None and places.device.type == "cpu" and pixels.is_contiguous():
        library.interleave(
            pixels.data_ptr(),
            y.data_ptr(),
            (n, height, width),
            outputs * places.element_size(),
            torch.get_num_threads(),
        )
    else:
        for place, part in enumerate(_parts(pixels)):
            y[:, :, place // 2, :, place % 2].copy_(part)
    return y.view(n, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)


def _parts(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Of ``[N, H + 1, W + 1, 4 O]`` the ``[N, H, W, O]`` that each place keeps; views."""
    height, width, outputs = pixels.shape[1] - 1, pixels.shape[2] - 1, pixels.shape[3] // PLACES
    return [
        pixels[:, down : down + height, right : right + width, place * outputs : (place + 1) * outputs]
        for place, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)))
    ]


def _needs_torch(places: torch.Tensor) -> bool:
    """Whether writing into memory would lose something: a gradient, a graph, or what hides behind the tensor."""
    return (
        torch.compiler.is_compiling()
        or not places.numel()
        or (places.requires_grad and torch.is_grad_enabled())
        or plain_tensor.why_not(("places",), (places,)) is not None
    )
