"""group_norm_act on channels-last tensors: one kernel where a slab fits the first-level cache, two where it does not.

A program owns a *slab*: whole groups that are together whole 32-byte sectors wide (48 channels for groups of 6, 12, 24 and
48 in fp16), so that no lane and no byte of a sector is wasted although no group is a power of two wide. It walks the slab in
columns of ``LANES`` channels; statistics are kept for each channel (Welford 1962), and only the results of whole columns,
a few numbers, are brought together into groups (Chan, Golub and LeVeque 1979).

What is normalised may come from two tensors (the second's channels follow the first's), and the first may have a residual
and a bias added, whose sum is written once. The result may be repeated in 2x2 squares or averaged over them on its way out,
and written nine times, once for each 3x3 window that a pixel is in.
Every option is decided at compile time: a kernel without it has no instruction of it.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from glide_fast.ops.case import fake_calls

from .build import ELEMENTS, Build, extremes

SECTOR = 32  # bytes that move between memory and the caches at least
ONE_PASS_BYTES = (
    32 * 1024
)  # a slab that the first-level cache still holds when it is read for the second time
ONE_PASS_BYTES_CROWDED = 96 * 1024  # the same where the batch alone fills the device
FILL = 132  # multiprocessors of an H100
PROGRAMS = 8 * FILL
TILE = 1024  # elements in a tile: 16 bytes in fp16 for each of 128 threads
MAX_LANE_BYTES = 128  # a cache line
WARPS = 4
NEAREST_X2 = tl.constexpr(1)  # what RESAMPLE is; 0 is neither
MEAN_2X2 = tl.constexpr(2)
RESAMPLE = {None: 0, "nearest_x2": NEAREST_X2.value, "mean_2x2": MEAN_2X2.value}


class Plan(NamedTuple):
    """How a shape is cut up; see :func:`plan`."""

    slab: int  # channels
    lanes: int  # channels in a column, a power of two
    rows: int  # positions in a tile, a power of two
    chunk: int  # positions of one program
    chunks: int  # programs that share a slab; 1 means one pass
    warps: int = WARPS

    def slab_groups(self, group: int) -> int:
        """Groups in a slab."""
        return self.slab // group


def plan(
    samples: int, positions: int, channels: int, groups: int, itemsize: int, with_residual: bool = False
) -> Plan:
    """The cut for ``x`` ``[samples, channels, positions]``: a pure function of the shape, unmeasured on a device.

    Args:
        channels: of both inputs together.
        itemsize: bytes of an element of x.
        with_residual: there is a second tensor to read for every element.
    """
    group, sector = channels // groups, SECTOR // itemsize
    base = math.lcm(group, sector)
    base = channels if channels % base else base
    slabs = channels // base
    crowded = samples * slabs >= FILL
    weight = positions * base * itemsize * (2 if with_residual else 1)
    if weight <= (ONE_PASS_BYTES_CROWDED if crowded else ONE_PASS_BYTES):
        return _cut(base, positions, 1, itemsize)
    # The second kernel reads every chunk's statistics (8 bytes a group) again: an eighth of its own data at most.
    most = max(1, math.isqrt(positions * group * itemsize // 64))
    slab = base
    while slabs % 2 == 0 and _lanes(slab, itemsize) * itemsize < MAX_LANE_BYTES:
        if samples * (slabs // 2) * most < PROGRAMS:
            break
        slab, slabs = slab * 2, slabs // 2
    return _cut(slab, positions, min(most, triton.cdiv(PROGRAMS, samples * slabs)), itemsize)


def _lanes(slab: int, itemsize: int) -> int:
    """Channels in a column: as many as divide the slab, or, where that is less than a sector, a column that is cut off."""
    dividing = slab & -slab
    wanted = dividing if dividing * itemsize >= SECTOR else triton.next_power_of_2(slab)
    return min(wanted, MAX_LANE_BYTES // itemsize)


def _cut(slab: int, positions: int, chunks: int, itemsize: int, tile: int = TILE, warps: int = WARPS) -> Plan:
    lanes = _lanes(slab, itemsize)
    rows = min(tile // lanes, max(triton.next_power_of_2(positions), 4))
    chunk = triton.cdiv(triton.cdiv(positions, chunks), rows) * rows
    return Plan(slab, lanes, rows, chunk, triton.cdiv(positions, chunk), warps)


@functools.cache
def plans(
    samples: int, positions: int, channels: int, groups: int, itemsize: int, with_residual: bool = False
) -> tuple[Plan, ...]:
    """Every cut that is worth a measurement, the guess of :func:`plan` first; the arguments are those."""
    first = plan(samples, positions, channels, groups, itemsize, with_residual)
    base = math.lcm(channels // groups, SECTOR // itemsize)
    base = channels if channels % base else base
    found = [first]
    for slab in (base, 2 * base, 4 * base):
        if channels % slab or (slab != base and slab * itemsize > 4 * MAX_LANE_BYTES):
            continue
        programs = samples * (channels // slab)
        together = {1} if positions * slab * itemsize <= 2 * ONE_PASS_BYTES_CROWDED else set()
        # As many programs as fill the device once, twice and four times, each with a tile to read at least.
        most = max(1, positions * min(_lanes(slab, itemsize), slab) // TILE)
        together |= {min(most, triton.cdiv(times * FILL, programs)) for times in (1, 2, 4)}
        for chunks in sorted(together):
            found += [
                _cut(slab, positions, chunks, itemsize, tile, warps)
                for tile, warps in ((TILE, WARPS), (2 * TILE, 2 * WARPS))
            ]
    return tuple(dict.fromkeys(found))


@triton.jit
def _one_hot(column, SLAB: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr):
    """Which of the slab's groups each channel of a column is in, bool [GROUPS, LANES]; none beyond the slab's end."""
    channel = column * LANES + tl.arange(0, LANES)
    group = tl.where(channel < SLAB, channel // GROUP, GROUPS)
    return group[None, :] == tl.arange(0, GROUPS)[:, None]


class Inputs(NamedTuple):
    """The inputs of one sample, from a slab's first channel on; None for those that there are not.

    Kernels make it themselves: Triton 3.6 takes a tuple that holds None as an argument, but not as a function's result.
    """

    x: Any
    x_row_stride: Any
    x2: Any  # from its own first channel on,
    x2_row_stride: Any
    split: Any  # which is this one of the slab's
    residual: Any
    residual_row_stride: Any
    x_bias: Any


@triton.jit
def _column(inputs, channel, SLAB: tl.constexpr):
    """One column of the inputs: what :func:`_tile` needs besides a position.

    Pointers [1, LANES] to position 0, the stride (of each lane, where there are two inputs), and what is added.
    """
    pointers = inputs.x + channel
    stride = inputs.x_row_stride
    if inputs.x2 is not None:
        pointers = tl.where(channel < inputs.split, pointers, inputs.x2 + (channel - inputs.split))
        stride = tl.where(channel < inputs.split, inputs.x_row_stride, inputs.x2_row_stride)[None, :]
    added = tl.zeros(channel.shape, tl.float32)
    if inputs.x_bias is not None:
        mask = channel < SLAB
        if inputs.x2 is not None:
            mask = mask & (channel < inputs.split)
        added = tl.load(inputs.x_bias + channel, mask=mask, other=0.0).to(tl.float32)
    return pointers[None, :], stride, added[None, :]


@triton.jit
def _own(inputs, channel, mask):
    """The part of a mask that lies in the first input."""
    if inputs.x2 is not None:
        mask = mask & (channel < inputs.split)[None, :]
    return mask


@triton.jit
def _tile(inputs, column, at, channel, mask):
    """A tile of what is normalised, [ROWS, LANES] in x's type: a sum is rounded to it before anything uses it."""
    pointers, stride, added = column
    value = tl.load(pointers + at.to(tl.int64)[:, None] * stride, mask=mask, other=0.0)
    if inputs.residual is not None or inputs.x_bias is not None:
        total = value.to(tl.float32) + added
        if inputs.residual is not None:
            beside = (
                inputs.residual + at.to(tl.int64)[:, None] * inputs.residual_row_stride + channel[None, :]
            )
            total += tl.load(beside, mask=_own(inputs, channel, mask), other=0.0).to(tl.float32)
        value = total.to(value.dtype)
    return value


@triton.jit
def _slab_statistics(
    inputs,  # as they are at the slab's first channel
    total,  # where to keep the sum, or None
    total_row_stride,
    first,  # positions [first, last)
    last,
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,  # channels in a group
    GROUPS: tl.constexpr,  # groups in the slab, rounded up to a power of two
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Mean and sum of squared deviations of each group over some positions, fp32 [GROUPS] each."""
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    count = tl.zeros((GROUPS,), tl.float32)
    mean = tl.zeros((GROUPS,), tl.float32)
    square = tl.zeros((GROUPS,), tl.float32)
    positions = tl.cast(
        last - first, tl.float32
    )  # of a single one Triton makes a constant, which has no `to`
    # How many positions each row of the tile will have seen.
    seen = tl.maximum((last - first - row + ROWS - 1) // ROWS, 0).to(tl.float32)[:, None]
    for index in range((SLAB + LANES - 1) // LANES):
        channel = index * LANES + lane
        column = _column(inputs, channel, SLAB)
        run_mean = tl.zeros((ROWS, LANES), tl.float32)
        run_square = tl.zeros((ROWS, LANES), tl.float32)
        steps = 0.0
        for start in tl.range(first, last, ROWS, loop_unroll_factor=2):
            at = start + row
            mask = (at < last)[:, None]
            if SLAB % LANES != 0:
                mask = mask & (channel < SLAB)[None, :]
            tile = _tile(inputs, column, at, channel, mask)
            if total is not None:
                kept = total + at.to(tl.int64)[:, None] * total_row_stride + channel[None, :]
                tl.store(kept, tile, mask=_own(inputs, channel, mask))
            value = tile.to(tl.float32)
            steps += 1.0
            step = tl.where(mask, value - run_mean, 0.0)
            run_mean += step * (1.0 / steps)
            run_square += step * (value - run_mean)
        # Rows into channels. The plain mean of the rows' means comes first: what is then weighted is small.
        pivot = tl.sum(run_mean, axis=0) / ROWS
        channel_mean = (
            pivot + tl.sum(tl.where(seen > 0, seen * (run_mean - pivot[None, :]), 0.0), axis=0) / positions
        )
        off = run_mean - channel_mean[None, :]
        channel_square = tl.sum(tl.where(seen > 0, run_square + seen * off * off, 0.0), axis=0)
        # Channels into the column's part of each group.
        member = _one_hot(index, SLAB, GROUP, GROUPS, LANES)
        members = tl.sum(member.to(tl.float32), axis=1)
        some = tl.maximum(members, 1.0)
        part_mean = tl.sum(tl.where(member, channel_mean[None, :], 0.0), axis=1) / some
        off = channel_mean[None, :] - part_mean[:, None]
        part_square = tl.sum(tl.where(member, channel_square[None, :] + positions * off * off, 0.0), axis=1)
        # The part into what earlier columns held of the group.
        together = tl.maximum(count + members, 1.0)
        off = tl.where(members > 0, part_mean - mean, 0.0)
        mean += off * (members / together)
        square += part_square + off * off * (positions * count * members / together)
        count += members
    return mean, square


@triton.jit
def _activate(tile, centre, gain, offset, SILU: tl.constexpr):
    # The mean is taken off first: folded into the offset, a large one would cost the result its digits.
    result = (tile.to(tl.float32) - centre[None, :]) * gain[None, :] + offset[None, :]
    if SILU:
        result = result / (1.0 + tl.exp(-result))
    return result


@triton.jit
def _store_windows(y, y_row_stride, tap_stride, row, column, height, width, channel, result, mask):
    """Store pixels (row, column) of a picture to the nine windows that each of them is in.

    Where a window would be centred beyond the picture, the opposite pixel of its own window lies beyond it too, and is
    filled with zeros: so every pixel makes nine stores of whole rows of channels, and together they fill every window.
    """
    own = (row * width + column).to(tl.int64) * y_row_stride
    for tap in tl.static_range(9):
        line = row + (1 - tap // 3)
        across = column + (1 - tap % 3)
        there = (line >= 0) & (line < height) & (across >= 0) & (across < width)
        at = tl.where(
            there,
            (line * width + across).to(tl.int64) * y_row_stride + tap * tap_stride,
            own + (8 - tap) * tap_stride,
        )
        tl.store(y + at[:, None] + channel[None, :], tl.where(there[:, None], result, 0.0), mask=mask)


@triton.jit
def _normalise_slab(
    inputs,  # as they are at the slab's first channel
    y,
    y_row_stride,
    tap_stride,  # of a window's nine pixels; read only with WINDOWS
    height,  # image lines of the input; read only with WINDOWS
    first,  # positions [first, last) of the input, of the output for a mean
    last,
    width,  # of an image line; read only to resample and with WINDOWS
    mean,  # fp32 [GROUPS]
    rstd,  # fp32 [GROUPS]
    affine,  # weight, bias, scale and shift at the slab's first channel
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    RESAMPLE: tl.constexpr,
    SILU: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """Everything after the statistics, for some positions."""
    weight, bias, scale, shift = affine
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    for index in range((SLAB + LANES - 1) // LANES):
        channel = index * LANES + lane
        inside = channel < SLAB
        column = _column(inputs, channel, SLAB)
        member = _one_hot(index, SLAB, GROUP, GROUPS, LANES)
        centre = tl.sum(tl.where(member, mean[:, None], 0.0), axis=0)
        gain = tl.sum(tl.where(member, rstd[:, None], 0.0), axis=0)
        gain *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
        if scale is not None:
            film = 1.0 + tl.load(scale + channel, mask=inside, other=0.0).to(tl.float32)
            gain *= film
            offset = offset * film + tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
        for start in tl.range(first, last, ROWS, loop_unroll_factor=2):
            at = start + row
            mask = (at < last)[:, None]
            if SLAB % LANES != 0:
                mask = mask & inside[None, :]
            to = at.to(tl.int64)
            if RESAMPLE == MEAN_2X2:
                half = width // 2
                corner = at // half * (2 * width) + at % half * 2
                result = tl.zeros((ROWS, LANES), tl.float32)
                for part in tl.static_range(4):
                    tile = _tile(inputs, column, corner + (part // 2 * width + part % 2), channel, mask)
                    result += 0.25 * _activate(tile, centre, gain, offset, SILU)
            else:
                tile = _tile(inputs, column, at, channel, mask)
                result = _activate(tile, centre, gain, offset, SILU)
            result = result.to(y.dtype.element_ty)
            if WINDOWS:
                if RESAMPLE == NEAREST_X2:
                    for part in tl.static_range(4):
                        _store_windows(
                            y, y_row_stride, tap_stride, at // width * 2 + part // 2, at % width * 2 + part % 2,
                            2 * height, 2 * width, channel, result, mask,
                        )  # fmt: skip
                else:
                    lines, columns = height, width
                    if RESAMPLE == MEAN_2X2:
                        lines, columns = height // 2, width // 2
                    _store_windows(
                        y,
                        y_row_stride,
                        tap_stride,
                        at // columns,
                        at % columns,
                        lines,
                        columns,
                        channel,
                        result,
                        mask,
                    )
            elif RESAMPLE == NEAREST_X2:
                to = (at // width * 2).to(tl.int64) * (2 * width) + at % width * 2
                for part in tl.static_range(4):
                    square = to + (part // 2 * (2 * width) + part % 2)
                    tl.store(y + square[:, None] * y_row_stride + channel[None, :], result, mask=mask)
            else:
                tl.store(y + to[:, None] * y_row_stride + channel[None, :], result, mask=mask)


@triton.jit
def one_pass(
    x,  # [N, positions, split or C], channels side by side, as all activations below
    x2,  # [N, positions, C - split], or None
    residual,  # as x, or None
    x_bias,  # [split or C], or None
    total,  # as x, or None: the sum of x, x_bias and residual
    y,  # [N, positions * 4 or 1 or 1/4, C], with WINDOWS [N, ..., 9, C]
    weight,  # [C]
    bias,  # [C]
    scale,  # [N, C], or None
    shift,
    positions,
    width,
    height,
    tap_stride,
    split,
    x_sample_stride,
    x_row_stride,
    x2_sample_stride,
    x2_row_stride,
    residual_sample_stride,
    residual_row_stride,
    total_sample_stride,
    total_row_stride,
    y_sample_stride,
    y_row_stride,
    scale_stride,
    shift_stride,
    eps,
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_OUT: tl.constexpr,  # ROWS of the second reading
    RESAMPLE: tl.constexpr,
    SILU: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """Grid (slabs, N): a program reads its slab, and reads it again from the cache to normalise it."""
    channel = tl.program_id(0) * SLAB
    sample = tl.program_id(1).to(tl.int64)
    inputs = Inputs(
        x + sample * x_sample_stride + channel,
        x_row_stride,
        None if x2 is None else x2 + sample * x2_sample_stride,
        x2_row_stride,
        split - channel,
        None if residual is None else residual + sample * residual_sample_stride + channel,
        residual_row_stride,
        None if x_bias is None else x_bias + channel,
    )
    if total is not None:
        total += sample * total_sample_stride + channel
    mean, square = _slab_statistics(
        inputs, total, total_row_stride, 0, positions, SLAB, GROUP, GROUPS, LANES, ROWS
    )
    rstd = tl.rsqrt(square / (tl.cast(positions, tl.float32) * GROUP) + eps)
    affine = (
        weight + channel,
        bias + channel,
        None if scale is None else scale + sample * scale_stride + channel,
        None if shift is None else shift + sample * shift_stride + channel,
    )
    _normalise_slab(
        inputs,
        y + sample * y_sample_stride + channel,
        y_row_stride,
        tap_stride,
        height,
        0,
        positions // 4 if RESAMPLE == MEAN_2X2 else positions,
        width,
        mean,
        rstd,
        affine,
        SLAB,
        GROUP,
        GROUPS,
        LANES,
        ROWS_OUT,
        RESAMPLE,
        SILU,
        WINDOWS,
    )


@triton.jit
def statistics(
    x,  # these as in one_pass
    x2,
    residual,
    x_bias,
    total,
    partial,  # fp32 [N, 2, chunks, C / GROUP]: means, then sums of squared deviations
    positions,
    chunk,
    split,
    x_sample_stride,
    x_row_stride,
    x2_sample_stride,
    x2_row_stride,
    residual_sample_stride,
    residual_row_stride,
    total_sample_stride,
    total_row_stride,
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Grid (chunks, slabs, N), the first of two passes: the statistics of a slab over one chunk of positions."""
    index, slab = tl.program_id(0), tl.program_id(1)
    channel = slab * SLAB
    sample = tl.program_id(2).to(tl.int64)
    begin = index * chunk
    inputs = Inputs(
        x + sample * x_sample_stride + channel,
        x_row_stride,
        None if x2 is None else x2 + sample * x2_sample_stride,
        x2_row_stride,
        split - channel,
        None if residual is None else residual + sample * residual_sample_stride + channel,
        residual_row_stride,
        None if x_bias is None else x_bias + channel,
    )
    if total is not None:
        total += sample * total_sample_stride + channel
    end = tl.minimum(begin + chunk, positions)
    mean, square = _slab_statistics(
        inputs, total, total_row_stride, begin, end, SLAB, GROUP, GROUPS, LANES, ROWS
    )
    chunks = tl.num_programs(0)
    groups = tl.num_programs(1) * (SLAB // GROUP)
    group = tl.arange(0, GROUPS)
    inside = group < SLAB // GROUP
    at = partial + sample * 2 * chunks * groups + index * groups + slab * (SLAB // GROUP) + group
    tl.store(at, mean, mask=inside)
    tl.store(at + chunks * groups, square, mask=inside)


@triton.jit
def normalise(
    x,  # these as in one_pass, with the sum in place of x where it was kept
    x2,
    residual,
    x_bias,
    y,
    weight,
    bias,
    scale,
    shift,
    partial,
    positions,
    chunk,
    chunks,
    share,  # positions of the input, of the output for a mean, of one program
    width,
    height,
    tap_stride,
    split,
    x_sample_stride,
    x_row_stride,
    x2_sample_stride,
    x2_row_stride,
    residual_sample_stride,
    residual_row_stride,
    y_sample_stride,
    y_row_stride,
    scale_stride,
    shift_stride,
    eps,
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS_OUT: tl.constexpr,
    CHUNKS: tl.constexpr,  # chunks, rounded up to a power of two
    RESAMPLE: tl.constexpr,
    SILU: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """Grid (shares, slabs, N), the second pass: every program merges the statistics of all chunks for its own slab."""
    # What the first pass read last is normalised first, while the second-level cache still has it.
    index, slab = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    groups = tl.num_programs(1) * (SLAB // GROUP)

    which, group = tl.arange(0, CHUNKS), tl.arange(0, GROUPS)
    inside = (which < chunks)[:, None] & (group < SLAB // GROUP)[None, :]
    at = (
        partial
        + sample * 2 * chunks * groups
        + which[:, None] * groups
        + slab * (SLAB // GROUP)
        + group[None, :]
    )
    chunk_mean = tl.load(at, mask=inside, other=0.0)
    chunk_square = tl.load(at + chunks * groups, mask=inside, other=0.0)
    size = tl.where(which < chunks, tl.minimum(chunk, positions - which * chunk), 0).to(tl.float32)[:, None]
    count = tl.cast(positions, tl.float32)
    pivot = tl.sum(chunk_mean, axis=0) / chunks
    off = tl.where(inside, chunk_mean - pivot[None, :], 0.0)
    mean = pivot + tl.sum(size * off, axis=0) / count
    off = tl.where(inside, chunk_mean - mean[None, :], 0.0)
    square = tl.sum(chunk_square + size * GROUP * off * off, axis=0)
    rstd = tl.rsqrt(square / (count * GROUP) + eps)

    channel = slab * SLAB
    begin = index * share
    inputs = Inputs(
        x + sample * x_sample_stride + channel,
        x_row_stride,
        None if x2 is None else x2 + sample * x2_sample_stride,
        x2_row_stride,
        split - channel,
        None if residual is None else residual + sample * residual_sample_stride + channel,
        residual_row_stride,
        None if x_bias is None else x_bias + channel,
    )
    affine = (
        weight + channel,
        bias + channel,
        None if scale is None else scale + sample * scale_stride + channel,
        None if shift is None else shift + sample * shift_stride + channel,
    )
    _normalise_slab(
        inputs,
        y + sample * y_sample_stride + channel,
        y_row_stride,
        tap_stride,
        height,
        begin,
        tl.minimum(begin + share, positions // 4 if RESAMPLE == MEAN_2X2 else positions),
        width,
        mean,
        rstd,
        affine,
        SLAB,
        GROUP,
        GROUPS,
        LANES,
        ROWS_OUT,
        RESAMPLE,
        SILU,
        WINDOWS,
    )  # fmt: skip


class Rows(NamedTuple):
    """An activation ``[N, C, ...]`` whose channels lie side by side."""

    tensor: torch.Tensor
    sample: int  # stride from sample to sample
    row: int  # stride from position to position


class Options(NamedTuple):
    """What a call has besides x, weight and bias: everything that the compiler is told of."""

    film: str | None = "fp32"  # type of scale and shift
    silu: bool = True
    x2: int = 0  # channels
    residual: bool = False
    x_bias: bool = False
    keep_sum: bool = False
    resample: str | None = None
    wide: bool = False  # y is fp32 whatever x is
    windows: bool = False


def constants(plan: Plan, group: int) -> dict[str, Any]:
    """The compile-time arguments that every kernel here takes, but for the rows of its tiles."""
    return {
        "SLAB": plan.slab,
        "GROUP": group,
        "GROUPS": triton.next_power_of_2(plan.slab_groups(group)),
        "LANES": plan.lanes,
    }


def _output_rows(plan: Plan, positions: int, resample: str | None) -> int:
    """The rows of a tile where results are made: those of a 2x2 mean are fewer, and each is four to read."""
    return min(plan.rows, triton.next_power_of_2(positions // 4)) if resample == "mean_2x2" else plan.rows


def launch(
    x: Rows,
    y: Rows,
    positions: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
    *,
    x2: Rows | None = None,
    residual: Rows | None = None,
    x_bias: torch.Tensor | None = None,
    total: Rows | None = None,
    resample: str | None = None,
    width: int = 0,
    windows: bool = False,
    cut: Plan | None = None,
) -> None:
    """Write the op of ``x`` to ``y``, and the sum of ``x``, ``x_bias`` and ``residual`` to ``total``, where it is given.

    Args:
        positions: of a sample of x; even lines of even ``width`` for ``mean_2x2``.
        weight, bias, x_bias: ``[C]``, ``[C]`` and ``[C1]`` with stride 1.
        scale, shift: ``[N, C]`` with stride 1 along C, or None.
        width: positions of an image line; read only with ``resample`` and ``windows``.
        windows: ``y``'s rows are the nine pixels of a window, side by side.
        cut: in place of what :func:`plan` says.
    """
    samples, split = x.tensor.shape[:2]
    channels = weight.shape[0]
    group = channels // groups
    if cut is None:
        cut = plan(samples, positions, channels, groups, x.tensor.element_size(), residual is not None)
    slabs = channels // cut.slab
    film_strides = (0, 0) if scale is None or shift is None else (scale.stride(0), shift.stride(0))
    affine = (weight, bias, scale, shift)
    fixed = constants(cut, group)
    rows_out = _output_rows(cut, positions, resample)
    last = {"ROWS_OUT": rows_out, "RESAMPLE": RESAMPLE[resample], "SILU": silu, "WINDOWS": windows}
    picture = (width, positions // width, channels) if windows else (width, 0, 0)
    second, beside, kept = _spread(x2), _spread(residual), _spread(total)
    if cut.chunks == 1:
        one_pass[slabs, samples](
            x.tensor, second[0], beside[0], x_bias, kept[0], y.tensor, *affine, positions, *picture, split,
            *x[1:], *second[1:], *beside[1:], *kept[1:], *y[1:], *film_strides, eps,
            **fixed, ROWS=cut.rows, **last, num_warps=cut.warps,
        )  # fmt: skip
        return
    partial = torch.empty(samples * 2 * cut.chunks * groups, dtype=torch.float32, device=x.tensor.device)
    statistics[cut.chunks, slabs, samples](
        x.tensor, second[0], beside[0], x_bias, kept[0], partial, positions, cut.chunk, split,
        *x[1:], *second[1:], *beside[1:], *kept[1:], **fixed, ROWS=cut.rows, num_warps=cut.warps,
    )  # fmt: skip
    if total is not None:
        x, x_bias, beside = total, None, _spread(None)
    results, share = positions, cut.chunk
    if resample == "mean_2x2":
        results, share = positions // 4, triton.cdiv(cut.chunk // 4, rows_out) * rows_out
    normalise[triton.cdiv(results, share), slabs, samples](
        x.tensor, second[0], beside[0], x_bias, y.tensor, *affine, partial, positions, cut.chunk, cut.chunks, share,
        *picture, split,
        *x[1:], *second[1:], *beside[1:], *y[1:], *film_strides, eps,
        **fixed, CHUNKS=triton.next_power_of_2(cut.chunks), **last, num_warps=cut.warps,
    )  # fmt: skip


def _spread(rows: Rows | None) -> tuple[torch.Tensor | None, int, int]:
    return (None, 0, 0) if rows is None else rows


def builds(
    samples: int,
    positions: int,
    channels: int,
    groups: int,
    element: str = "fp16",
    options: Options = Options(),  # noqa: B008 - immutable
    cut: Plan | None = None,
) -> list[Build]:
    """What :func:`launch` compiles for a shape, with x_bias as wide as x and an fp32 weight.

    Args:
        channels: of both inputs together.
        element: x's Triton type.
        cut: in place of what :func:`plan` says.
    """
    o = options
    if cut is None:
        cut = plan(samples, positions, channels, groups, 4 if element == "fp32" else 2, o.residual)
    group = channels // groups
    kinds = {
        **dict.fromkeys(("x", "x2", "residual", "x_bias", "total"), f"*{element}"),
        **dict.fromkeys(("scale", "shift"), f"*{o.film}"),
        "y": "*fp32" if o.wide else f"*{element}",
        **dict.fromkeys(("weight", "bias", "partial"), "*fp32"),
        **dict.fromkeys(("positions", "chunk", "chunks", "share", "width", "height", "split"), "i32"),
        **dict.fromkeys(("scale_stride", "shift_stride", "tap_stride"), "i32"),
        **{
            f"{tensor}_{axis}_stride": "i32"
            for tensor in ("x", "x2", "residual", "total", "y")
            for axis in ("sample", "row")
        },
        "eps": "fp32",
    }
    given = {
        "scale": o.film is not None,
        "shift": o.film is not None,
        "x2": o.x2 > 0,
        "residual": o.residual,
        "x_bias": o.x_bias,
    }
    given["total"] = o.keep_sum
    fixed: dict[str, Any] = constants(cut, group)
    if positions == 1:
        fixed["positions"] = 1  # as a launch makes a constant of it
    rows = {"ROWS": cut.rows}
    last = {"ROWS_OUT": _output_rows(cut, positions, o.resample)}
    last |= {"RESAMPLE": RESAMPLE[o.resample], "SILU": o.silu, "WINDOWS": o.windows}
    if cut.chunks == 1:
        kernels = [(one_pass, given, fixed | rows | last)]
    else:
        merged = {"CHUNKS": triton.next_power_of_2(cut.chunks)}
        after = given | ({"residual": False, "x_bias": False} if o.keep_sum else {})
        kernels = [(statistics, given, fixed | rows), (normalise, after, fixed | merged | last)]
    found = []
    for kernel, present, values in kernels:
        absent = {name: None for name, there in present.items() if not there and name in kernel.arg_names}
        arguments = {
            n: kinds[n] for n in kernel.arg_names if n in kinds and n not in absent and n not in values
        }
        label = _label(samples, positions, channels, element, o)
        sizes = tuple(n for n in ("positions", "chunk", "share", "width", "split") if n in arguments)
        found.append(Build(kernel, label, arguments, values | absent, cut.warps, sizes=sizes))
    return found


def _label(samples: int, positions: int, channels: int, element: str, options: Options) -> str:
    parts = {
        "no FiLM": options.film is None,
        "no SiLU": not options.silu,
        f"x2 of {options.x2}": options.x2,
        "residual": options.residual,
        "x_bias": options.x_bias,
        "sum": options.keep_sum,
        str(options.resample): options.resample,
        "to fp32": options.wide,
        "windows": options.windows,
    }
    extras = [name for name, present in parts.items() if present]
    return ", ".join([f"[{samples}, {channels}, {positions}] {element}", *extras])


LAYER_NORM = Options(film=None, silu=False)
# Rows and their width: the text transformer's for two prompts, and one row of tokens through each of CLIP's towers.
LAYER_NORMS = ((2 * 128, 512), (77, 512), (257, 768))


def options_of(call: Any) -> Options:
    """The options of a call (:class:`glide_fast.ops.group_norm_act.arguments.Call`)."""
    return Options(
        film=None if call.scale is None else ELEMENTS[call.scale.dtype],
        silu=call.silu,
        x2=0 if call.x2 is None else call.x2.shape[1],
        residual=call.residual is not None,
        x_bias=call.x_bias is not None,
        keep_sum=call.keep_sum and call.adds,
        resample=call.resample,
        wide=call.out_dtype is torch.float32 and call.x.dtype is not torch.float32,
        windows=call.windows,
    )


def plans_of(call: Any) -> tuple[Plan, ...]:
    """:func:`plans` of a call."""
    shape = call.x.shape[0], call.positions, call.channels, call.groups
    return plans(*shape, call.x.element_size(), call.residual is not None)


def builds_of(call: Any, cut: Plan | None = None) -> list[Build]:
    """What :func:`launch` compiles for a call."""
    shape = call.x.shape[0], call.positions, call.channels, call.groups
    return builds(*shape, ELEMENTS[call.x.dtype], options_of(call), cut)


def candidate_builds() -> list[Build]:
    """Every plan of GLIDE's calls in fp16."""
    calls = fake_calls("group_norm_act", torch.float16, "cuda")
    return [build for call in calls for cut in plans_of(call) for build in builds_of(call, cut)]


def default_builds() -> list[Build]:
    """What one prompt launches in fp16: of each combination of options the smallest call and the largest."""
    calls = extremes(
        fake_calls("group_norm_act", torch.float16, "cuda", one_prompt=True),
        sort=lambda call: options_of(call)._replace(x2=int(call.x2 is not None)),
        size=lambda call: call.x.numel(),
    )
    return [build for call in calls for build in builds_of(call)]


def shipped_builds() -> list[Build]:
    """All calls of the models at the batch sizes that are benchmarked, in every type, and their layer norms."""
    found = []
    for dtype, element in ELEMENTS.items():
        for call in fake_calls("group_norm_act", dtype, "cuda"):
            found += builds_of(call)
        if element != "fp32":  # there torch's own kernel serves
            for rows, width in LAYER_NORMS:
                found += builds(rows, 1, width, 1, element, LAYER_NORM)
    return found
