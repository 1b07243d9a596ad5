"""Where a convolution's window stands: kernel, stride and padding as pairs (vertical, horizontal), and the result's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops.checks import MOST, is_integer


class Window(NamedTuple):
    """Of a convolution without dilation or groups."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result; below 1 where the window does not fit."""
        (kh, kw), (sh, sw), (ph, pw) = self
        return (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1


def kernel_size(weight: torch.Tensor) -> tuple[int, int]:
    """``(kh, kw)`` of a weight ``[O, C, kh, kw]``, ``[O, C, 1]`` or ``[O, C]``.

    Raises:
        InvalidInputError: for any other shape, or one without elements.
    """
    shape = weight.shape
    if len(shape) not in (2, 3, 4) or (len(shape) == 3 and shape[2] != 1) or 0 in shape:
        raise invalid(
            "weight", tuple(shape), "a shape [O, C, kh, kw], [O, C, 1] or [O, C] with no dimension of 0"
        )
    # torch.jit.trace makes tensors of sizes.
    return (int(shape[2]), int(shape[3])) if len(shape) == 4 else (1, 1)


def window(
    weight: torch.Tensor, stride: int | Sequence[int] = 1, padding: int | Sequence[int] | None = None
) -> Window:
    """The window of a weight; ``padding=None`` is half the kernel, which keeps the size at stride 1 and odd kernels.

    Raises:
        InvalidInputError: for a weight of another shape, a stride below 1 or a padding below 0.
    """
    kernel = kernel_size(weight)
    around = (kernel[0] // 2, kernel[1] // 2) if padding is None else _pair("padding", padding, 0)
    return Window(kernel, _pair("stride", stride, 1), around)


def _pair(name: str, given: int | Sequence[int], least: int) -> tuple[int, int]:
    if type(given) is int and least <= given <= MOST:
        return given, given
    pair = given if isinstance(given, tuple | list) else (given, given)
    if len(pair) != 2 or not all(map(is_integer, pair)) or min(pair) < least or max(pair) > MOST:
        accepted = f"an integer from {least} to {MOST}, or two: vertical, horizontal"
        raise invalid(name, given, accepted)
    return pair[0], pair[1]


def as_kernel(weight: torch.Tensor) -> torch.Tensor:
    """A weight ``[O, C, kh, kw]``, ``[O, C, 1]`` or ``[O, C]`` in four dimensions; a view."""
    return weight if weight.dim() == 4 else weight.reshape(weight.shape[0], weight.shape[1], 1, 1)
