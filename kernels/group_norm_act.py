"""group_norm_act on channels-last tensors: one kernel where a slab fits the first-level cache, two where it does not.

A program owns a *slab*: whole groups that are together whole 32-byte sectors wide (48 channels for groups of 6, 12, 24 and
48 in fp16), so that no lane and no byte of a sector is wasted although no group is a power of two wide. It walks the slab in
columns of ``LANES`` channels; statistics are kept for each channel (Welford 1962), and only the results of whole columns,
a few numbers, are brought together into groups (Chan, Golub and LeVeque 1979).
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from . import glide_shapes
from .build import Build

SECTOR = 32  # bytes that move between memory and the caches at least
ONE_PASS_BYTES = (
    32 * 1024
)  # a slab that the first-level cache still holds when it is read for the second time
ONE_PASS_BYTES_CROWDED = 96 * 1024  # the same where the batch alone fills the device
FILL = 132  # multiprocessors of an H100
PROGRAMS = 8 * FILL
TILE = 1024  # elements in a tile: 16 bytes in fp16 for each of 128 threads
MAX_LANE_BYTES = 128  # a cache line


class Plan(NamedTuple):
    """How a shape is cut up; see :func:`plan`."""

    slab: int  # channels
    lanes: int  # channels in a column, a power of two
    rows: int  # positions in a tile, a power of two
    chunk: int  # positions of one program
    chunks: int  # programs that share a slab; 1 means one pass

    def slab_groups(self, group: int) -> int:
        """Groups in a slab."""
        return self.slab // group


def plan(samples: int, positions: int, channels: int, groups: int, itemsize: int) -> Plan:
    """The cut for ``x`` ``[samples, channels, positions]``: a pure function of the shape, unmeasured on a device.

    Args:
        itemsize: bytes of an element of x.
    """
    group, sector = channels // groups, SECTOR // itemsize
    base = math.lcm(group, sector)
    base = channels if channels % base else base
    slabs = channels // base
    crowded = samples * slabs >= FILL
    if positions * base * itemsize <= (ONE_PASS_BYTES_CROWDED if crowded else ONE_PASS_BYTES):
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


def _cut(slab: int, positions: int, chunks: int, itemsize: int) -> Plan:
    lanes = _lanes(slab, itemsize)
    rows = min(TILE // lanes, max(triton.next_power_of_2(positions), 4))
    chunk = triton.cdiv(triton.cdiv(positions, chunks), rows) * rows
    return Plan(slab, lanes, rows, chunk, triton.cdiv(positions, chunk))


@triton.jit
def _one_hot(
    slab, column, SLAB: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr
):
    """Which of the slab's groups each channel of a column is in, bool [GROUPS, LANES]; none beyond the slab's end."""
    channel = column * LANES + tl.arange(0, LANES)
    group = tl.where(channel < SLAB, channel // GROUP, GROUPS)
    return group[None, :] == tl.arange(0, GROUPS)[:, None]


@triton.jit
def _slab_statistics(
    x,  # the slab's first element at position 0
    row_stride,
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
    positions = (last - first).to(tl.float32)
    # How many positions each row of the tile will have seen.
    seen = tl.maximum((last - first - row + ROWS - 1) // ROWS, 0).to(tl.float32)[:, None]
    for column in range((SLAB + LANES - 1) // LANES):
        channel = column * LANES + lane
        run_mean = tl.zeros((ROWS, LANES), tl.float32)
        run_square = tl.zeros((ROWS, LANES), tl.float32)
        steps = 0.0
        for start in tl.range(first, last, ROWS, loop_unroll_factor=2):
            at = start + row
            mask = (at < last)[:, None]
            if SLAB % LANES != 0:
                mask = mask & (channel < SLAB)[None, :]
            value = tl.load(x + at[:, None] * row_stride + channel[None, :], mask=mask, other=0.0).to(
                tl.float32
            )
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
        member = _one_hot(0, column, SLAB, GROUP, GROUPS, LANES)
        members = tl.sum(member.to(tl.float32), axis=1)
        some = tl.maximum(members, 1.0)
        part_mean = tl.sum(tl.where(member, channel_mean[None, :], 0.0), axis=1) / some
        off = channel_mean[None, :] - part_mean[:, None]
        part_square = tl.sum(tl.where(member, channel_square[None, :] + positions * off * off, 0.0), axis=1)
        # The part into what earlier columns held of the group.
        total = tl.maximum(count + members, 1.0)
        off = tl.where(members > 0, part_mean - mean, 0.0)
        mean += off * (members / total)
        square += part_square + off * off * (positions * count * members / total)
        count += members
    return mean, square


@triton.jit
def _normalise_slab(
    x,
    y,
    x_row_stride,
    y_row_stride,
    first,
    last,
    mean,  # fp32 [GROUPS]
    rstd,  # fp32 [GROUPS]
    weight,  # these at the slab's first channel
    bias,
    scale,
    shift,
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    FILM: tl.constexpr,
    SILU: tl.constexpr,
):
    """Everything after the statistics, for the same positions."""
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    for column in range((SLAB + LANES - 1) // LANES):
        channel = column * LANES + lane
        inside = channel < SLAB
        member = _one_hot(0, column, SLAB, GROUP, GROUPS, LANES)
        centre = tl.sum(tl.where(member, mean[:, None], 0.0), axis=0)
        gain = tl.sum(tl.where(member, rstd[:, None], 0.0), axis=0)
        gain *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
        if FILM:
            film = 1.0 + tl.load(scale + channel, mask=inside, other=0.0).to(tl.float32)
            gain *= film
            offset = offset * film + tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
        for start in tl.range(first, last, ROWS, loop_unroll_factor=2):
            at = start + row
            mask = (at < last)[:, None]
            if SLAB % LANES != 0:
                mask = mask & inside[None, :]
            value = tl.load(x + at[:, None] * x_row_stride + channel[None, :], mask=mask, other=0.0).to(
                tl.float32
            )
            # The mean is taken off first: folded into the offset, a large one would cost the result its digits.
            result = (value - centre[None, :]) * gain[None, :] + offset[None, :]
            if SILU:
                result = result / (1.0 + tl.exp(-result))
            tl.store(
                y + at[:, None] * y_row_stride + channel[None, :], result.to(y.dtype.element_ty), mask=mask
            )


@triton.jit
def one_pass(
    x,  # [N, positions, C], channels side by side
    y,  # the same
    weight,  # [C]
    bias,  # [C]
    scale,  # [N, C], or anything without FILM
    shift,
    positions,
    x_sample_stride,
    x_row_stride,
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
    FILM: tl.constexpr,
    SILU: tl.constexpr,
):
    """Grid (slabs, N): a program reads its slab, and reads it again from the cache to normalise it."""
    channel = tl.program_id(0) * SLAB
    sample = tl.program_id(1).to(tl.int64)
    x += sample * x_sample_stride + channel
    y += sample * y_sample_stride + channel
    mean, square = _slab_statistics(x, x_row_stride, 0, positions, SLAB, GROUP, GROUPS, LANES, ROWS)
    rstd = tl.rsqrt(square / (positions.to(tl.float32) * GROUP) + eps)
    _normalise_slab(
        x,
        y,
        x_row_stride,
        y_row_stride,
        0,
        positions,
        mean,
        rstd,
        weight + channel,
        bias + channel,
        scale + sample * scale_stride + channel,
        shift + sample * shift_stride + channel,
        SLAB,
        GROUP,
        GROUPS,
        LANES,
        ROWS,
        FILM,
        SILU,
    )


@triton.jit
def statistics(
    x,  # [N, positions, C], channels side by side
    partial,  # fp32 [N, 2, chunks, C / GROUP]: means, then sums of squared deviations
    positions,
    chunk,
    x_sample_stride,
    x_row_stride,
    SLAB: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Grid (chunks, slabs, N), the first of two passes: the statistics of a slab over one chunk of positions."""
    index, slab = tl.program_id(0), tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    begin = index * chunk
    x += sample * x_sample_stride + begin.to(tl.int64) * x_row_stride + slab * SLAB
    size = tl.minimum(chunk, positions - begin)
    mean, square = _slab_statistics(x, x_row_stride, 0, size, SLAB, GROUP, GROUPS, LANES, ROWS)
    chunks = tl.num_programs(0)
    groups = tl.num_programs(1) * (SLAB // GROUP)
    group = tl.arange(0, GROUPS)
    inside = group < SLAB // GROUP
    at = partial + sample * 2 * chunks * groups + index * groups + slab * (SLAB // GROUP) + group
    tl.store(at, mean, mask=inside)
    tl.store(at + chunks * groups, square, mask=inside)


@triton.jit
def normalise(
    x,
    y,
    weight,
    bias,
    scale,
    shift,
    partial,
    positions,
    chunk,
    x_sample_stride,
    x_row_stride,
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
    CHUNKS: tl.constexpr,  # chunks, rounded up to a power of two
    FILM: tl.constexpr,
    SILU: tl.constexpr,
):
    """Grid (chunks, slabs, N), the second pass: every program merges the statistics of all chunks for its own slab."""
    # What the first pass read last is normalised first, while the second-level cache still has it.
    chunks = tl.num_programs(0)
    index, slab = chunks - 1 - tl.program_id(0), tl.program_id(1)
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
    total = positions.to(tl.float32)
    pivot = tl.sum(chunk_mean, axis=0) / chunks.to(tl.float32)
    off = tl.where(inside, chunk_mean - pivot[None, :], 0.0)
    mean = pivot + tl.sum(size * off, axis=0) / total
    off = tl.where(inside, chunk_mean - mean[None, :], 0.0)
    square = tl.sum(chunk_square + size * GROUP * off * off, axis=0)
    rstd = tl.rsqrt(square / (total * GROUP) + eps)

    channel = slab * SLAB
    begin = index * chunk
    _normalise_slab(
        x + sample * x_sample_stride + begin.to(tl.int64) * x_row_stride + channel,
        y + sample * y_sample_stride + begin.to(tl.int64) * y_row_stride + channel,
        x_row_stride,
        y_row_stride,
        0,
        tl.minimum(chunk, positions - begin),
        mean,
        rstd,
        weight + channel,
        bias + channel,
        scale + sample * scale_stride + channel,
        shift + sample * shift_stride + channel,
        SLAB,
        GROUP,
        GROUPS,
        LANES,
        ROWS,
        FILM,
        SILU,
    )


WARPS = 4


def constants(plan: Plan, group: int) -> dict[str, int]:
    """The compile-time arguments that every kernel here takes."""
    return {
        "SLAB": plan.slab,
        "GROUP": group,
        "GROUPS": triton.next_power_of_2(plan.slab_groups(group)),
        "LANES": plan.lanes,
        "ROWS": plan.rows,
    }


def launch(
    x: torch.Tensor,
    y: torch.Tensor,
    strides: tuple[int, int, int, int],
    positions: int,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    silu: bool,
    cut: Plan | None = None,
) -> None:
    """Write the op of ``x`` to ``y``.

    Args:
        x, y: ``[N, C, ...]`` with ``positions`` positions, channels side by side.
        strides: of x from sample to sample and from position to position, then of y.
        weight, bias: ``[C]`` with stride 1.
        scale, shift: ``[N, C]`` with stride 1 along C, or None.
        cut: in place of what :func:`plan` says.
    """
    samples, channels = x.shape[:2]
    group = channels // groups
    cut = plan(samples, positions, channels, groups, x.element_size()) if cut is None else cut
    slabs = channels // cut.slab
    x_sample, x_row, y_sample, y_row = strides
    film = scale is not None and shift is not None
    gain, offset = (scale, shift) if scale is not None and shift is not None else (weight, weight)
    affine = (weight, bias, gain, offset)
    film_strides = (gain.stride(0), offset.stride(0)) if film else (0, 0)
    fixed = constants(cut, group)
    if cut.chunks == 1:
        one_pass[slabs, samples](
            x, y, *affine, positions, x_sample, x_row, y_sample, y_row, *film_strides, eps,
            **fixed, FILM=film, SILU=silu, num_warps=WARPS,
        )  # fmt: skip
        return
    partial = torch.empty(samples * 2 * cut.chunks * groups, dtype=torch.float32, device=x.device)
    grid = (cut.chunks, slabs, samples)
    statistics[grid](x, partial, positions, cut.chunk, x_sample, x_row, **fixed, num_warps=WARPS)
    normalise[grid](
        x, y, *affine, partial, positions, cut.chunk, x_sample, x_row, y_sample, y_row, *film_strides, eps,
        **fixed, CHUNKS=triton.next_power_of_2(cut.chunks), FILM=film, SILU=silu, num_warps=WARPS,
    )  # fmt: skip


def builds(
    samples: int, positions: int, channels: int, groups: int, element: str = "fp16", silu: bool = True
) -> list[Build]:
    """What :func:`launch` compiles for a shape, with FiLM as wide as x and an fp32 weight. ``element``: x's Triton type."""
    cut = plan(samples, positions, channels, groups, 4 if element == "fp32" else 2)
    group = channels // groups
    kinds = {
        **dict.fromkeys(("x", "y", "scale", "shift"), f"*{element}"),
        **dict.fromkeys(("weight", "bias", "partial"), "*fp32"),
        **dict.fromkeys(("positions", "chunk", "scale_stride", "shift_stride"), "i32"),
        **{f"{tensor}_{axis}_stride": "i32" for tensor in "xy" for axis in ("sample", "row")},
        "eps": "fp32",
    }
    label = f"[{samples}, {channels}, {positions}] {element}"
    fixed = constants(cut, group)
    last = {"FILM": True, "SILU": silu}
    if cut.chunks == 1:
        kernels = [(one_pass, fixed | last)]
    else:
        merged = {"CHUNKS": triton.next_power_of_2(cut.chunks)}
        kernels = [(statistics, fixed), (normalise, fixed | merged | last)]
    return [
        Build(kernel, label, {n: kinds[n] for n in kernel.arg_names if n in kinds}, values, WARPS)
        for kernel, values in kernels
    ]


def default_builds() -> list[Build]:
    """What a guided sampling run of one prompt in fp16 launches most: the base model at batch 2, the upsampler at 1."""
    return [
        *builds(2, 64 * 64, 192, glide_shapes.GROUPS),
        *builds(2, 8 * 8, 768, glide_shapes.GROUPS),
        *builds(1, 256 * 256, 192, glide_shapes.GROUPS),
    ]


def shipped_builds() -> list[Build]:
    """GLIDE's shapes at the batch sizes that are benchmarked."""
    found = []
    for element, batches in glide_shapes.ELEMENTS:
        for samples in batches:
            for side, channels in glide_shapes.BASE:
                found += builds(samples, side * side, channels, glide_shapes.GROUPS, element)
        for side, channels in glide_shapes.UPSAMPLER:
            found += builds(1, side * side, channels, glide_shapes.GROUPS, element)
    return found
