"""The layout in which the CPU kernel of Winograd's algorithm reads a 3x3 weight, and when a weight is worth that layout.

The kernel is csrc/convolution/winograd.kernel.cpp. The layout holds the weight's own values, each once: it takes no more memory
than any other, and gives the weight back bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from glide_fast.cpu import features
from glide_fast.ops import native
from glide_fast.ops.convolution.window import Window

WINDOW = Window((3, 3), (1, 1), (1, 1))
LEAST_WIDTH = 8
"""At the left and right border terms cancel that are rounded: in narrower pictures that would be most of the error."""


def blocks(outputs: int) -> Iterator[tuple[int, int]]:
    """Of each group of outputs that the kernel computes together the first, and the one behind its last.

    ``WinogradPlan::block_of`` divides them so as well.
    """
    first = 0
    while first < outputs:
        left = outputs - first
        width = 48 if left >= 48 and left != 64 else min(left, 32)
        yield first, first + width
        first += width


def tiled(weight: torch.Tensor) -> torch.Tensor:
    """bf16 ``[O, C, 3, 3]`` as ``[9 C O]``: for each block of outputs ``[3 columns, 3 rows, C / 2, outputs, 2]``."""
    # Two channels at a time are one number of 32 bits; torch moves those several times as fast.
    pairs = (
        weight.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).view(torch.int32)
    )  # [O, 3 rows, 3 columns, C / 2]
    parts = [pairs[first:last].permute(2, 1, 3, 0).flatten() for first, last in blocks(len(weight))]
    return torch.cat(parts).view(weight.dtype)


def untiled(tiles: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The weight of this shape that :func:`tiled` was given, contiguous."""
    outputs, channels = shape[:2]
    pairs = torch.empty((outputs, 3, 3, channels // 2), dtype=torch.int32, device=tiles.device)
    for (first, last), part in zip(blocks(outputs), _parts(tiles.view(torch.int32), shape), strict=True):
        pairs[first:last].copy_(part.view(3, 3, channels // 2, last - first).permute(3, 1, 0, 2))
    return pairs.view(tiles.dtype).permute(0, 3, 1, 2).contiguous()


def _parts(pairs: torch.Tensor, shape: torch.Size) -> tuple[torch.Tensor, ...]:
    return pairs.split([(last - first) * 9 * shape[1] // 2 for first, last in blocks(shape[0])])


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
    return _why_missing()


@functools.cache
def _why_missing() -> str | None:
    library = native.load()
    if library is None or hasattr(library, "winograd"):
        return native.why_missing()
    return "the native library is older than the sources: install glide_fast again"


@functools.cache
def why_not_worth() -> str | None:
    """Why oneDNN convolves faster on this machine; None where the kernel does."""
    library = native.load()
    if library is None:
        return native.why_missing()
    if "avx512_bf16" not in library.isas():
        return "this processor has no AVX-512 BF16, without which the kernel is slow"
    if "AMX BF16" in features():
        return "oneDNN multiplies in this processor's AMX tiles, which the kernel does not"
    return None
