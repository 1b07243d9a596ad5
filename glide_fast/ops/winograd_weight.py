"""The layout in which the CPU kernel of Winograd's algorithm reads a 3x3 weight, and when a weight is worth that layout.

The kernel is csrc/cpu/winograd.kernel.cpp. The layout holds the weight's own values, each once: it takes no more memory than
any other, and gives the weight back bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from glide_fast.cpu import features
from glide_fast.ops import native
from glide_fast.ops.convolution_window import Window

WINDOW = Window((3, 3), (1, 1), (1, 1))
LEAST_WIDTH = 8
"""At the left and right border terms cancel that are rounded: in narrower pictures that would be most of the error."""


def blocks(outputs: int) -> Iterator[tuple[int, int]]:
    """First and last-but-one of the outputs that the kernel computes together, as ``WinogradPlan::block_of`` divides them."""
    first = 0
    while first < outputs:
        left = outputs - first
        width = 48 if left >= 48 and left != 64 else min(left, 32)
        yield first, first + width
        first += width


def tiled(weight: torch.Tensor) -> torch.Tensor:
    """``[O, C, 3, 3]`` as ``[9 C O]``: for each block of outputs ``[3 columns, 3 rows, C / 2, outputs, 2]``."""
    parts = []
    for first, last in blocks(weight.shape[0]):
        pairs = weight[first:last].unflatten(1, (-1, 2))  # [outputs, C / 2, 2, 3 rows, 3 columns]
        parts.append(pairs.permute(4, 3, 1, 0, 2).flatten())
    return torch.cat(parts)


def untiled(tiles: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The weight of this shape that :func:`tiled` was given, contiguous."""
    outputs, channels = shape[:2]
    weight = tiles.new_empty(shape)
    for first, last in blocks(outputs):
        part = tiles[9 * channels * first : 9 * channels * last].view(3, 3, channels // 2, last - first, 2)
        weight[first:last].unflatten(1, (-1, 2)).copy_(part.permute(3, 2, 4, 1, 0))
    return weight


def why_not(dtype: torch.dtype, channels: int, outputs: int, window: Window, width: int) -> str | None:
    """Why the kernel cannot convolve pictures of this width with such a weight; None if it can."""
    if dtype != torch.bfloat16:
        return f"the tensors are {dtype}; the kernel takes bfloat16"
    if window != WINDOW:
        kernel, stride, padding = window
        return f"kernel {kernel}, stride {stride}, padding {padding}; the kernel takes 3x3, stride 1 and padding 1"
    if channels % 32 or outputs % 16:
        return f"{channels} to {outputs} channels; the kernel takes multiples of 32 and 16"
    if width % 2 or width < LEAST_WIDTH:
        return f"pictures are {width} wide; the kernel takes even widths from {LEAST_WIDTH}"
    return native.why_missing()


@functools.cache
def why_not_worth() -> str | None:
    """Why oneDNN convolves faster on this machine; None where the kernel does."""
    library = native.load()
    if library is not None and "avx512_bf16" not in library.isas():
        return "this processor has no AVX-512 BF16, without which the kernel is slow"
    if "AMX BF16" in features():
        return "oneDNN multiplies in this processor's AMX tiles, which the kernel does not"
    return None
