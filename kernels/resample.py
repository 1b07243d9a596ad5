"""resample on channels-last tensors: bias and residual added on the way in, each pixel read once and written once."""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from .build import Build, launch_options

TILE = 1024  # elements in a tile of the smaller picture: 16 bytes in fp16 for each of 128 threads
MAX_LANES = 64  # channels in a tile: a cache line in fp16


@triton.jit
def _value(
    x,
    residual,
    offset,  # the bias in fp32, [1, LANES]
    x_at,
    residual_at,
    mask,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    """x + bias + residual at some pixels, rounded to the type of x."""
    value = tl.load(x + x_at, mask=mask, other=0.0)
    if BIAS or RESIDUAL:
        total = value.to(tl.float32)
        if BIAS:
            total += offset
        if RESIDUAL:
            total += tl.load(residual + residual_at, mask=mask, other=0.0).to(tl.float32)
        value = total.to(x.dtype.element_ty)
    return value


# Whether 16 divides the picture's sides changes no load or store, and would be a kernel of its own for each level.
@triton.jit(do_not_specialize=["height", "width"])
def resize(
    x,  # [N, H, W, C], channels side by side
    y,  # [N, 2 H, 2 W, C] with UP, else [N, H / 2, W / 2, C]
    bias,  # [C], or anything without BIAS
    residual,  # like x, or anything without RESIDUAL
    height,  # of the smaller picture
    width,
    channels,
    x_sample_stride,
    x_row_stride,
    x_column_stride,
    y_sample_stride,
    y_row_stride,
    y_column_stride,
    residual_sample_stride,
    residual_row_stride,
    residual_column_stride,
    UP: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PIXELS: tl.constexpr,  # of the smaller picture, in a tile
    LANES: tl.constexpr,  # channels in a tile
    DEPENDENT: tl.constexpr,  # launched while the kernel before it may still run
):
    """Grid (tiles of pixels, tiles of channels, N)."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    sample = tl.program_id(2).to(tl.int64)
    x += sample * x_sample_stride
    y += sample * y_sample_stride
    residual += sample * residual_sample_stride
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = (tl.program_id(1) * LANES + tl.arange(0, LANES))[None, :]
    mask = (pixel < height * width)[:, None] & (channel < channels)
    # int64, since offsets in a large picture do not fit in int32 (those in the upsampler's pictures do).
    row = (pixel // width).to(tl.int64)[:, None]
    column = (pixel % width).to(tl.int64)[:, None]
    offset = tl.zeros((1, LANES), tl.float32)
    if BIAS:
        offset = tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)
    if UP:
        at = row * x_row_stride + column * x_column_stride + channel
        residual_at = row * residual_row_stride + column * residual_column_stride + channel
        value = _value(x, residual, offset, at, residual_at, mask, BIAS, RESIDUAL)
        y_at = y + 2 * row * y_row_stride + 2 * column * y_column_stride + channel
        tl.store(y_at, value, mask=mask)
        tl.store(y_at + y_column_stride, value, mask=mask)
        tl.store(y_at + y_row_stride, value, mask=mask)
        tl.store(y_at + y_row_stride + y_column_stride, value, mask=mask)
    else:
        at = 2 * row * x_row_stride + 2 * column * x_column_stride + channel
        residual_at = 2 * row * residual_row_stride + 2 * column * residual_column_stride + channel
        a = _value(x, residual, offset, at, residual_at, mask, BIAS, RESIDUAL)
        b = _value(
            x, residual, offset, at + x_column_stride, residual_at + residual_column_stride,
            mask, BIAS, RESIDUAL,
        )  # fmt: skip
        at += x_row_stride
        residual_at += residual_row_stride
        c = _value(x, residual, offset, at, residual_at, mask, BIAS, RESIDUAL)
        d = _value(
            x, residual, offset, at + x_column_stride, residual_at + residual_column_stride,
            mask, BIAS, RESIDUAL,
        )  # fmt: skip
        above = a.to(tl.float32) + b.to(tl.float32)
        below = c.to(tl.float32) + d.to(tl.float32)
        mean = ((above + below) * 0.25).to(y.dtype.element_ty)
        tl.store(y + row * y_row_stride + column * y_column_stride + channel, mean, mask=mask)


class Tile(NamedTuple):
    """What one program writes, counted in the smaller picture; pixels and lanes are powers of two."""

    pixels: int
    lanes: int  # channels
    warps: int = 4


def tile(channels: int) -> Tile:
    """The tile for so many channels, unless a measurement says another.

    The lanes divide ``channels`` where such a power of two is at least 16, so that no lane is masked.
    """
    dividing = min(channels & -channels, MAX_LANES)
    lanes = dividing if dividing >= 16 else min(triton.next_power_of_2(channels), MAX_LANES)
    return Tile(TILE // lanes, lanes)


@functools.cache
def plans(channels: int) -> tuple[Tile, ...]:
    """Every tile that is worth a measurement, the guess of :func:`tile` first."""
    first = tile(channels)
    widths = (first.lanes, *(lanes for lanes in (16, 32, 128) if channels % lanes == 0))
    found = [
        Tile(size // lanes, lanes, warps)
        for lanes in widths
        for size, warps in ((TILE, 4), (TILE // 2, 4), (2 * TILE, 8), (2 * TILE, 4))
    ]
    return tuple(dict.fromkeys([first, *found]))


def launch(
    x: torch.Tensor,
    y: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    up: bool,
    x_strides: tuple[int, int, int],
    y_strides: tuple[int, int, int],
    residual_strides: tuple[int, int, int],
    cut: Tile | None = None,
    dependent: bool = False,
) -> None:
    """Write the resized sum to ``y``.

    Args:
        x, y: ``[N, C, H, W]`` and ``[N, C, H', W']``, channels side by side.
        bias: ``[C]`` with stride 1, or None.
        residual: shape of x, channels side by side, or None.
        up: nearest x2, else the 2x2 mean.
        x_strides, y_strides, residual_strides: from sample to sample, row to row and column to column.
        cut: replaces the choice of :func:`tile`.
        dependent: by programmatic dependent launch, on devices that have it.
    """
    small = x if up else y
    n, channels, height, width = small.shape
    pixels, lanes, warps = tile(channels) if cut is None else cut
    grid = (triton.cdiv(height * width, pixels), triton.cdiv(channels, lanes), n)
    resize[grid](
        x, y, x if bias is None else bias, x if residual is None else residual, height, width, channels,
        *x_strides, *y_strides, *residual_strides,
        UP=up, BIAS=bias is not None, RESIDUAL=residual is not None, PIXELS=pixels, LANES=lanes,
        DEPENDENT=dependent, num_warps=warps, **launch_options(dependent),
    )  # fmt: skip


def builds(
    channels: int, up: bool, element: str = "fp16", added: bool = True, cut: Tile | None = None
) -> list[Build]:
    """The configurations that :func:`launch` compiles.

    Args:
        element: the Triton type of x.
        added: with a bias in fp32 and a residual.
        cut: replaces the choice of :func:`tile`.
    """
    pixels, lanes, warps = tile(channels) if cut is None else cut
    strides = [f"{t}_{axis}_stride" for t in ("x", "y", "residual") for axis in ("sample", "row", "column")]
    arguments = {
        **dict.fromkeys(("x", "y", "residual"), f"*{element}"),
        "bias": "*fp32" if added else f"*{element}",
        **dict.fromkeys(("height", "width", "channels", *strides), "i32"),
    }
    constants = {
        "UP": up,
        "BIAS": added,
        "RESIDUAL": added,
        "PIXELS": pixels,
        "LANES": lanes,
        "DEPENDENT": False,
    }
    label = f"{'nearest x2' if up else '2x2 mean'} {element}{' with bias and residual' if added else ''}"
    return [Build(resize, label, arguments, constants, warps, sizes=("channels",))]


def default_builds() -> list[Build]:
    """GLIDE's resizing blocks in fp16. All have a multiple of 64 channels, so 192 stands for every width."""
    return [
        build for up in (True, False) for added in (True, False) for build in builds(192, up, "fp16", added)
    ]


def plans_of(call: Any) -> tuple[Tile, ...]:
    """:func:`plans` of a call (:class:`glide_fast.ops.resample.arguments.Call`)."""
    return plans(call.x.shape[1])


def candidate_builds() -> list[Build]:
    """Every tile of these."""
    return [
        build
        for cut in plans(192)
        for up in (True, False)
        for added in (True, False)
        for build in builds(192, up, "fp16", added, cut)
    ]


def shipped_builds() -> list[Build]:
    """The configurations of :func:`default_builds` in bf16 and fp32."""
    return [
        build
        for element in ("bf16", "fp32")
        for up in (True, False)
        for added in (True, False)
        for build in builds(192, up, element, added)
    ]
