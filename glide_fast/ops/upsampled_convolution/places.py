"""The four places that a pixel of the upsampled picture can have within a pixel of the small one: their weights and results."""

from __future__ import annotations

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, native, plain_tensor

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


def interleave(places: torch.Tensor) -> torch.Tensor:
    """``[N, 4 O, H + 1, W + 1]`` to ``[N, O, 2 H, 2 W]``: each place's pixels to where they belong."""
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
    """The same by torch's operators; differentiable."""
    parts = _parts(places.permute(0, 2, 3, 1))
    upper, lower = torch.stack(parts[:2], 3), torch.stack(parts[2:], 3)
    return torch.stack([upper, lower], 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


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
