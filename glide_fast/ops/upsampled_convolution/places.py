"""The weights and the results of the four places of a pixel of the upsampled picture.

A place is the position of a pixel in its 2x2 block, which repeats one pixel of the small picture: upper left (0), upper right
(1), lower left (2) or lower right (3). Signal processing calls it a phase of the upsampling.
"""

from __future__ import annotations

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, native, plain_tensor

PLACES = 4


def place_weights(weight: torch.Tensor) -> torch.Tensor:
    """The weights of the 2x2 convolutions of the small picture that give the four places of the upsampled one.

    Args:
        weight: ``[O, C, 3, 3]``, of the convolution of the upsampled picture.

    Returns:
        ``[4 O, C, 2, 2]``: O outputs for place 0, then O for place 1, and so on. Weights of ``weight`` that meet the same pixel
        are summed in fp32 (fp64 for fp64) and rounded to the type of ``weight``.

    Raises:
        InvalidInputError: for a weight of another shape.
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


def interleave(places: torch.Tensor) -> torch.Tensor:
    """Build the upsampled picture ``[N, O, 2 H, 2 W]`` from the pictures of its four places ``[N, 4 O, H + 1, W + 1]``."""
    n, channels, height, width = places.shape
    outputs, height, width = channels // PLACES, height - 1, width - 1
    pixels = places.permute(0, 2, 3, 1)
    if _needs_torch(places):
        return interleave_reference(places)
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


def interleave_reference(places: torch.Tensor) -> torch.Tensor:
    """:func:`interleave` by torch's operators; differentiable."""
    parts = _parts(places.permute(0, 2, 3, 1))
    upper, lower = torch.stack(parts[:2], 3), torch.stack(parts[2:], 3)
    return torch.stack([upper, lower], 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _parts(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Views of ``pixels`` ``[N, H + 1, W + 1, 4 O]``: for each place the ``[N, H, W, O]`` without the border it does not need."""
    height, width, outputs = pixels.shape[1] - 1, pixels.shape[2] - 1, pixels.shape[3] // PLACES
    return [
        pixels[:, down : down + height, right : right + width, place * outputs : (place + 1) * outputs]
        for place, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)))
    ]


def _needs_torch(places: torch.Tensor) -> bool:
    """Whether only torch's operators are right: for a gradient, a compiled graph, or a tensor that is more than its memory."""
    return (
        torch.compiler.is_compiling()
        or not places.numel()
        or (places.requires_grad and torch.is_grad_enabled())
        or plain_tensor.why_not(("places",), (places,)) is not None
    )
