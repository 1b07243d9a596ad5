"""The three ways of a 3x3 convolution on a GPU, and which of them was the fastest where it was measured.

- ``cudnn``: cuDNN reads the picture.
- ``triton``: our kernel reads the picture (``kernels/convolution.py``).
- ``windows``: the norm before the convolution writes the picture as 3x3 windows, and cuBLAS multiplies these rows by the weights
  (:func:`glide_fast.ops.window_convolution`). It writes nine times as much, and multiplies at the speed of a matrix product,
  which at 8x8 and 16x16 pixels is two to three times that of the others.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

CUDNN, TRITON, WINDOWS = "cudnn", "triton", "windows"


class Measured(NamedTuple):
    """Microseconds of one convolution (fp16, stride 1, padding 1, without bias) on an NVIDIA H100 80GB HBM3."""

    side: float  # of a picture, in pixels
    pixels: int  # of all pictures of the batch
    inputs: int
    outputs: int
    cudnn: float
    triton: float
    product: float  # of the windows with the weights, by cuBLAS; the windows were there


MEASURED = (
    Measured(8, 64, 768, 768, 15.2, 9.1, 7.6),
    Measured(8, 64, 1536, 768, 28.8, 12.5, 8.5),
    Measured(8, 128, 768, 768, 15.3, 14.2, 8.5),
    Measured(8, 128, 1536, 768, 29.3, 22.5, 9.6),
    Measured(8, 512, 768, 768, 17.0, 30.5, 14.5),
    Measured(8, 512, 1536, 768, 29.5, 55.7, 28.5),
    Measured(8, 2048, 768, 768, 64.7, 75.7, 38.6),
    Measured(8, 2048, 1536, 768, 97.6, 146.2, 74.8),
    Measured(16, 256, 768, 768, 15.7, 22.1, 11.2),
    Measured(16, 256, 1536, 768, 42.0, 38.2, 16.9),
    Measured(16, 512, 576, 576, 19.0, 23.8, 11.2),
    Measured(16, 512, 1152, 576, 32.6, 42.7, 17.6),
    Measured(16, 2048, 768, 768, 56.5, 81.1, 38.4),
    Measured(16, 2048, 1536, 768, 101.6, 151.2, 75.4),
    Measured(16, 8192, 576, 576, 143.3, 186.5, 68.3),
    Measured(16, 8192, 1152, 576, 162.2, 362.2, 132.2),
    Measured(32, 1024, 384, 384, 13.0, 20.2, 8.5),
    Measured(32, 1024, 768, 384, 20.8, 37.7, 13.9),
    Measured(32, 2048, 384, 384, 17.2, 27.5, 15.0),
    Measured(32, 2048, 768, 384, 28.8, 52.4, 28.4),
    Measured(32, 8192, 384, 384, 44.0, 80.1, 38.4),
    Measured(32, 8192, 768, 384, 61.7, 119.8, 63.2),
    Measured(32, 32768, 384, 384, 154.1, 178.9, 127.8),
    Measured(32, 32768, 768, 384, 266.8, 448.1, 261.7),
    Measured(64, 4096, 384, 384, 39.1, 41.0, 20.8),
    Measured(64, 4096, 768, 384, 71.0, 77.7, 39.1),
    Measured(64, 8192, 192, 192, 22.6, 22.3, 11.6),
    Measured(64, 8192, 384, 192, 40.8, 40.8, 26.5),
    Measured(64, 32768, 384, 384, 154.4, 199.3, 127.4),
    Measured(64, 32768, 768, 384, 265.0, 450.9, 254.5),
    Measured(64, 131072, 192, 192, 129.1, 310.2, 185.2),
    Measured(64, 131072, 384, 192, 313.1, 537.4, 350.0),
    Measured(128, 16384, 192, 192, 23.0, 42.8, 27.7),
    Measured(128, 16384, 384, 192, 66.4, 81.1, 47.8),
    Measured(128, 131072, 192, 192, 136.7, 287.1, 185.8),
    Measured(128, 131072, 384, 192, 316.5, 535.2, 350.8),
    Measured(256, 65536, 192, 192, 67.8, 127.3, 96.6),
    Measured(256, 65536, 384, 192, 163.2, 273.2, 177.2),
    Measured(256, 524288, 192, 192, 547.2, 1129.5, 746.4),
    Measured(256, 524288, 384, 192, 1326.0, 2399.1, 1464.5),
)
"""GLIDE's convolutions, in order of size."""

MARGIN = {TRITON: 1.05, WINDOWS: 1.15}
"""How many times as fast as the ways that come before it a way must be; more for windows, whose writing is reckoned."""
WRITTEN_A_MICROSECOND = 2.5e6
"""Bytes of windows that a norm writes in a microsecond: less than the 3e6 of a copy, which also reads."""
FIXED = 1.0
"""Microseconds that writing windows is reckoned to cost besides."""
FAR = 2.0
"""A measurement says nothing of a convolution with more than this many times its side, pixels, inputs or outputs, or fewer."""
MOST_BYTES = 96 * 2**20
"""Of the windows of one convolution in half precision: a picture in windows is nine times as large as it is."""


def windows_bytes(pixels: int, inputs: int, itemsize: int = 2) -> int:
    """The bytes of a batch of so many pixels as windows."""
    return 9 * pixels * inputs * itemsize


def predicted(at: Measured) -> dict[str, float]:
    """Microseconds of each way, with what the norm takes longer to write windows; the writing is reckoned, not measured."""
    written = windows_bytes(at.pixels, at.inputs) * 8 / 9
    return {
        CUDNN: at.cudnn,
        TRITON: at.triton,
        WINDOWS: at.product + written / WRITTEN_A_MICROSECOND + FIXED,
    }


def nearest(side: float, pixels: int, inputs: int, outputs: int) -> Measured | None:
    """The measurement of the convolution that is most like this one; None where none is near (:data:`FAR`)."""
    sizes = (side, pixels, inputs, outputs)
    if min(sizes) < 1:
        return None

    def distance(at: Measured) -> tuple[float, float]:
        apart = [abs(math.log2(a / b)) for a, b in zip(sizes, at[:4], strict=True)]
        return sum(apart), max(apart)

    found = min(MEASURED, key=distance)
    return found if distance(found)[1] <= math.log2(FAR) else None


@functools.cache
def fastest(samples: int, positions: int, inputs: int, outputs: int, *, windows: bool = True) -> str:
    """The way to take for a 3x3 convolution at stride 1 with padding 1, in half precision.

    Args:
        samples: pictures of the batch.
        positions: pixels of one picture.
        inputs, outputs: channels.
        windows: whether there is a norm before the convolution that can write windows.
    """
    near = nearest(math.sqrt(positions), samples * positions, inputs, outputs)
    if near is None:
        return CUDNN
    times = predicted(near)
    best = CUDNN
    if times[TRITON] * MARGIN[TRITON] <= times[best]:
        best = TRITON
    small = windows_bytes(samples * positions, inputs) <= MOST_BYTES
    if windows and small and times[WINDOWS] * MARGIN[WINDOWS] <= times[best]:
        best = WINDOWS
    return best
