"""A 3x3 convolution of channels-last pictures (stride 1, padding 1) as one matrix product whose left factor is never written.

Pixels are the rows of the product, output channels its columns, and the sum runs over nine taps times the input channels: a
program gathers, for each tap, the pixels beside its own straight from the picture (implicit GEMM), and adds bias and
residual to its result before the one rounding.

A level of 8x8 or 16x16 pixels has too few rows to fill a device at small batches. There the sum is split among programs as
well: each writes its part in fp32 to a workspace, and a second kernel adds the parts in their order, so that a result does not
depend on which program ended first.

A device with TMA can fetch the pixels of a tap, and the weights, by descriptors instead of pointers (``loads`` of a plan): one
instruction for a whole tile, addresses and the zeros beyond the picture by the hardware. That wants tiles of whole image lines.
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
from triton.tools.tensor_descriptor import TensorDescriptor

from glide_fast.ops.case import fake_calls
from glide_fast.ops.layout import pixel_strides

from .build import Build

TAPS = 9
FILL = 132  # multiprocessors of an H100
TMA = (9, 0)  # compute capability from which descriptors are fetched by hardware
LEAST_STEPS = 8  # of a split's sum: fewer would not pay for filling the pipeline
REDUCE_TILE = 1024
REDUCE_WARPS = 4


POINTERS, DESCRIPTORS = "pointers", "descriptors"


class Plan(NamedTuple):
    """How a product is cut up; see :func:`plan`."""

    pixels: int  # rows of a tile
    outputs: int  # columns of a tile
    inputs: int  # input channels of a step
    splits: int  # programs that share a tile's sum; 1 means no workspace
    warps: int
    stages: int
    loads: str = POINTERS

    def steps(self, inputs: int) -> int:
        """Steps of the whole sum over ``inputs`` channels."""
        return TAPS * triton.cdiv(inputs, self.inputs)


def plan(pixels: int, inputs: int, outputs: int) -> Plan:
    """The cut for ``pixels`` (of all samples), input and output channels: a pure function of these, unmeasured on a device."""
    step = min(64, max(16, triton.next_power_of_2(inputs)))
    columns = 128 if outputs % 128 == 0 and _tiles(pixels, outputs, 128, 128) >= FILL else 64
    rows = 128 if _tiles(pixels, outputs, 128, columns) >= FILL else 64
    tiles = _tiles(pixels, outputs, rows, columns)
    steps = TAPS * triton.cdiv(inputs, step)
    # A split writes its part and reads it again: 8 bytes an element. All of them together: at most the bytes of the weights.
    affordable = 2 * TAPS * inputs // (8 * pixels)
    splits = max(1, min(math.ceil(FILL / tiles), steps // LEAST_STEPS, affordable))
    splits = triton.cdiv(steps, triton.cdiv(steps, splits))  # none without steps
    large = rows * columns >= 128 * 128
    return Plan(rows, columns, step, splits, 8 if large else 4, 3 if large else 4)


@functools.cache
def plans(pixels: int, inputs: int, outputs: int) -> tuple[Plan, ...]:
    """Every cut that is worth a measurement, the guess of :func:`plan` first; the arguments are those."""
    step = min(64, max(16, triton.next_power_of_2(inputs)))
    tiles = [
        (64, 64, 4, 4),
        (64, 128, 4, 3),
        (128, 64, 4, 3),
        (128, 64, 4, 4),
        (128, 128, 8, 3),
        (128, 128, 8, 4),
    ]
    if outputs <= 16:
        tiles = [(64, 16, 4, 4), (128, 16, 4, 3), (128, 16, 8, 3)]
    found = [plan(pixels, inputs, outputs)]
    for rows, columns, warps, stages in tiles:
        for wide in (
            (step, 128) if step == 64 and inputs % 128 == 0 and rows * columns <= 64 * 64 else (step,)
        ):
            first = Plan(rows, columns, wide, 1, warps, 3 if wide == 128 else stages)
            found.append(first)
            count, steps = _tiles(pixels, outputs, rows, columns), first.steps(inputs)
            for times in (1, 2, 3):
                splits = min(math.ceil(times * FILL / count), max(1, steps // 4), 16)
                splits = triton.cdiv(steps, triton.cdiv(steps, splits))  # none without steps
                found.append(first._replace(splits=splits))
    return tuple(dict.fromkeys(found))


def box(rows: int, height: int, width: int) -> tuple[int, int, int] | None:
    """Samples, lines and columns that a tile of so many rows consists of, for descriptors; None where it is no such box."""
    columns = min(rows, width)
    lines = min(rows // columns, height)
    samples = rows // (columns * lines)
    whole = width % columns == 0 and (columns == width or lines == 1)
    whole = whole and height % lines == 0 and (lines == height or samples == 1)
    sizes = samples, lines, columns
    powers = all(size & (size - 1) == 0 for size in sizes)
    return sizes if whole and powers and samples * lines * columns == rows and max(sizes) <= 256 else None


def why_no_descriptors(x: torch.Tensor, weight: torch.Tensor, cut: Plan) -> str | None:
    """Why the TMA cannot fetch the tiles of this cut; None if it can."""
    _, inputs, height, width = x.shape
    if inputs * x.element_size() % 16:
        return f"{inputs} channels are no multiple of 16 bytes"
    if not weight.is_contiguous(memory_format=torch.channels_last):
        return "the weight is not dense"
    if x.data_ptr() % 16 or weight.data_ptr() % 16 or any(size % 8 for size in pixel_strides(x) or (1,)):
        return "x or weight does not lie on 16 bytes"
    if box(cut.pixels, height, width) is None:
        return f"{cut.pixels} pixels of a picture of {height}x{width} are no whole lines"
    return None


def _tiles(pixels: int, outputs: int, rows: int, columns: int) -> int:
    return triton.cdiv(pixels, rows) * triton.cdiv(outputs, columns)


@triton.jit
def _finish(
    total,  # fp32 [PIXELS, OUTPUTS]
    bias,
    residual,
    y,
    pixel,
    output,
    pixels,
    height,
    width,
    outputs,
    residual_sample_stride,
    residual_row_stride,
    residual_column_stride,
    y_sample_stride,
    y_row_stride,
    y_column_stride,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Store a program's part of the sums to the workspace, or bias and residual added and rounded to the result."""
    real = (pixel < pixels)[:, None] & (output < outputs)[None, :]
    if SPLIT:
        at = (tl.program_id(2).to(tl.int64) * pixels + pixel)[:, None] * outputs + output[None, :]
        tl.store(y + at, total, mask=real)
    else:
        # Offsets in 64 bits: pictures of GLIDE's sizes fit 32, any picture does not.
        sample = (pixel // (height * width)).to(tl.int64)
        rest = pixel % (height * width)
        row, column = (rest // width).to(tl.int64), (rest % width).to(tl.int64)
        if BIAS:
            total += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
        if RESIDUAL:
            at = sample * residual_sample_stride + row * residual_row_stride + column * residual_column_stride
            total += tl.load(residual + at[:, None] + output[None, :], mask=real, other=0.0).to(tl.float32)
        at = sample * y_sample_stride + row * y_row_stride + column * y_column_stride
        tl.store(y + at[:, None] + output[None, :], total.to(y.dtype.element_ty), mask=real)


@triton.jit
def conv3x3(
    x,  # [N, H, W, C], channels side by side
    weight,  # [O, 3, 3, C], channels side by side
    bias,  # [O], or anything without BIAS
    residual,  # [N, H, W, O], channels side by side, or anything without RESIDUAL
    y,  # the same; with SPLIT the workspace, fp32 [splits, N H W, O]
    pixels,  # N H W
    height,
    width,
    inputs,
    outputs,
    steps,  # of a split
    x_sample_stride,
    x_row_stride,
    x_column_stride,
    weight_output_stride,
    weight_row_stride,
    weight_column_stride,
    residual_sample_stride,
    residual_row_stride,
    residual_column_stride,
    y_sample_stride,
    y_row_stride,
    y_column_stride,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLIT: tl.constexpr,
    WHOLE: tl.constexpr,  # the input channels are a whole number of steps
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Grid (tiles of pixels, tiles of outputs, splits): neighbouring programs read the same weights."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    split = tl.program_id(2)
    sample = (pixel // (height * width)).to(tl.int64)
    rest = pixel % (height * width)
    row = rest // width
    column = rest % width
    lane = tl.arange(0, INPUTS)
    x_at = (
        x
        + (sample * x_sample_stride + row * x_row_stride + column * x_column_stride)[:, None]
        + lane[None, :]
    )
    weight_at = weight + output.to(tl.int64)[None, :] * weight_output_stride + lane[:, None]
    real_pixel = pixel < pixels
    real_output = (output < outputs)[None, :]

    blocks = (inputs + INPUTS - 1) // INPUTS
    total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    for step in range(split * steps, tl.minimum((split + 1) * steps, 9 * blocks)):
        tap = step // blocks
        first = (step - tap * blocks) * INPUTS
        down = tap // 3 - 1
        right = tap % 3 - 1
        inside = real_pixel & (row + down >= 0) & (row + down < height)
        inside = (inside & (column + right >= 0) & (column + right < width))[:, None]
        real_weight = real_output
        if not WHOLE:
            inside = inside & (first + lane < inputs)[None, :]
            real_weight = real_weight & (first + lane < inputs)[:, None]
        a = tl.load(x_at + (down * x_row_stride + right * x_column_stride + first), mask=inside, other=0.0)
        tap_offset = (down + 1) * weight_row_stride + (right + 1) * weight_column_stride
        b = tl.load(weight_at + (tap_offset + first), mask=real_weight, other=0.0)
        total = tl.dot(a, b, total)

    _finish(
        total, bias, residual, y, pixel, output, pixels, height, width, outputs,
        residual_sample_stride, residual_row_stride, residual_column_stride,
        y_sample_stride, y_row_stride, y_column_stride, BIAS, RESIDUAL, SPLIT,
    )  # fmt: skip


@triton.jit
def conv3x3_descriptors(
    x,  # descriptor of [N, H, W, C], of blocks of SAMPLES, LINES, COLUMNS, INPUTS
    weight,  # descriptor of [O, 9 C], of blocks of OUTPUTS, INPUTS
    bias,  # these as in conv3x3
    residual,
    y,
    pixels,
    height,
    width,
    inputs,
    outputs,
    steps,
    residual_sample_stride,
    residual_row_stride,
    residual_column_stride,
    y_sample_stride,
    y_row_stride,
    y_column_stride,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLIT: tl.constexpr,
    SAMPLES: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Grid (tiles of pixels, tiles of outputs, splits), as conv3x3; INPUTS divides the input channels."""
    PIXELS: tl.constexpr = SAMPLES * LINES * COLUMNS
    first_pixel = tl.program_id(0) * PIXELS
    first_output = tl.program_id(1) * OUTPUTS
    split = tl.program_id(2)
    sample = first_pixel // (height * width)
    rest = first_pixel % (height * width)
    row, column = rest // width, rest % width
    blocks = inputs // INPUTS
    total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    for step in range(split * steps, tl.minimum((split + 1) * steps, 9 * blocks)):
        tap = step // blocks
        first = (step - tap * blocks) * INPUTS
        a = x.load([sample, row + tap // 3 - 1, column + tap % 3 - 1, first])
        b = weight.load([first_output, tap * inputs + first])
        total = tl.dot(a.reshape(PIXELS, INPUTS), b.T, total)
    _finish(
        total, bias, residual, y, first_pixel + tl.arange(0, PIXELS), first_output + tl.arange(0, OUTPUTS),
        pixels, height, width, outputs, residual_sample_stride, residual_row_stride, residual_column_stride,
        y_sample_stride, y_row_stride, y_column_stride, BIAS, RESIDUAL, SPLIT,
    )  # fmt: skip


@triton.jit
def add_splits(
    parts,  # fp32 [SPLITS, N H W, O]
    bias,  # [O], or anything without BIAS
    residual,  # [N, H, W, O], channels side by side, or anything without RESIDUAL
    y,  # the same
    pixels,
    height,
    width,
    outputs,
    residual_sample_stride,
    residual_row_stride,
    residual_column_stride,
    y_sample_stride,
    y_row_stride,
    y_column_stride,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLITS: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid (tiles of pixels, tiles of outputs): the parts of a sum in their order, bias, residual, one rounding."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    real = (pixel < pixels)[:, None] & (output < outputs)[None, :]
    part_at = parts + pixel.to(tl.int64)[:, None] * outputs + output[None, :]
    total = tl.load(part_at, mask=real, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(part_at + tl.cast(split, tl.int64) * pixels * outputs, mask=real, other=0.0)
    _finish(
        total, bias, residual, y, pixel, output, pixels, height, width, outputs,
        residual_sample_stride, residual_row_stride, residual_column_stride,
        y_sample_stride, y_row_stride, y_column_stride, BIAS, RESIDUAL, False,
    )  # fmt: skip


def reduce_tile(outputs: int) -> tuple[int, int]:
    """Pixels and outputs of a tile of :func:`add_splits`, powers of two."""
    lanes = min(64, triton.next_power_of_2(outputs))
    return REDUCE_TILE // lanes, lanes


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    y: torch.Tensor,
    x_strides: tuple[int, int, int],
    weight_strides: tuple[int, int, int],
    residual_strides: tuple[int, int, int],
    y_strides: tuple[int, int, int],
    *,
    cut: Plan | None = None,
    workspace: torch.Tensor | None = None,
) -> None:
    """Write the convolution of ``x`` with ``weight``, plus ``bias`` and ``residual``, to ``y``.

    Args:
        x: ``[N, C, H, W]``, fp16 or bf16; here and below, channels (of ``weight`` its input channels) lie side by side.
        weight: ``[O, C, 3, 3]`` of the same type.
        bias: ``[O]`` with stride 1, any floating type, or None.
        residual, y: ``[N, O, H, W]``; residual may be None.
        x_strides, residual_strides, y_strides: from sample to sample, row to row and column to column.
        weight_strides: from output to output, and from tap to tap down and to the right.
        cut: in place of what :func:`plan` says.
        workspace: fp32, of at least splits N H W O elements, in place of a new one; only for a cut with splits.
    """
    n, inputs, height, width = x.shape
    outputs, pixels = weight.shape[0], n * height * width
    cut = plan(pixels, inputs, outputs) if cut is None else cut
    steps = triton.cdiv(cut.steps(inputs), cut.splits)
    split = cut.splits > 1
    offset, added = weight if bias is None else bias, y if residual is None else residual
    target = y
    if split:
        count = cut.splits * pixels * outputs
        target = torch.empty(count, dtype=torch.float32, device=x.device) if workspace is None else workspace
    grid = (triton.cdiv(pixels, cut.pixels), triton.cdiv(outputs, cut.outputs), cut.splits)
    terms = {"BIAS": bias is not None, "RESIDUAL": residual is not None}
    own_terms = dict.fromkeys(terms, False) if split else terms
    if cut.loads == DESCRIPTORS:
        if (reason := why_no_descriptors(x, weight, cut)) is not None or inputs % cut.inputs:
            raise ValueError(
                f"plan: got {cut}; accepted: loads by pointers ({reason or 'inputs do not divide'})"
            )
        # The host makes them: a launch hands them over by value, so a captured graph holds its own.
        boxes = box(cut.pixels, height, width)
        assert boxes is not None
        rows = TensorDescriptor(x, [n, height, width, inputs], [*x_strides, 1], [*boxes, cut.inputs])
        matrix = TensorDescriptor(
            weight, [outputs, TAPS * inputs], [TAPS * inputs, 1], [cut.outputs, cut.inputs]
        )
        conv3x3_descriptors[grid](
            rows, matrix, offset, added, target, pixels, height, width, inputs, outputs, steps,
            *residual_strides, *y_strides, **own_terms, **constants(cut, inputs, height, width),
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    else:
        conv3x3[grid](
            x, weight, offset, added, target, pixels, height, width, inputs, outputs, steps,
            *x_strides, *weight_strides, *residual_strides, *y_strides, **own_terms, **constants(cut, inputs),
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    if split:
        rows, lanes = reduce_tile(outputs)
        add_splits[(triton.cdiv(pixels, rows), triton.cdiv(outputs, lanes))](
            target, offset, added, y, pixels, height, width, outputs, *residual_strides, *y_strides,
            **terms, SPLITS=cut.splits, PIXELS=rows, OUTPUTS=lanes, num_warps=REDUCE_WARPS,
        )  # fmt: skip


def constants(cut: Plan, inputs: int, height: int = 0, width: int = 0) -> dict[str, int | bool]:
    """The compile-time arguments that follow from a cut: of :func:`conv3x3`, or of :func:`conv3x3_descriptors`."""
    if cut.loads == DESCRIPTORS:
        boxes = zip(("SAMPLES", "LINES", "COLUMNS"), box(cut.pixels, height, width) or (), strict=True)
        return {"SPLIT": cut.splits > 1, **dict(boxes), "OUTPUTS": cut.outputs, "INPUTS": cut.inputs}
    return {
        "SPLIT": cut.splits > 1,
        "WHOLE": inputs % cut.inputs == 0,
        "PIXELS": cut.pixels,
        "OUTPUTS": cut.outputs,
        "INPUTS": cut.inputs,
    }


def plans_of(call: Any) -> tuple[Plan, ...]:
    """:func:`plans` of a call (:class:`glide_fast.ops.convolution.arguments.Call`), and the first of them by descriptors."""
    samples, inputs, height, width = call.x.shape
    found = plans(samples * height * width, inputs, call.weight.shape[0])
    cut = found[0]
    served = inputs % cut.inputs == 0 and box(cut.pixels, height, width) is not None
    if call.x.is_cuda:
        able = torch.cuda.get_device_capability(call.x.device) >= TMA
        served = served and able and why_no_descriptors(call.x, call.weight, cut) is None
    return (*found, cut._replace(loads=DESCRIPTORS)) if served else found


def builds(
    samples: int, side: int, inputs: int, outputs: int, element: str = "fp16", cut: Plan | None = None
) -> list[Build]:
    """What :func:`launch` compiles for a shape with a bias and a residual, all of one type. ``element``: its Triton type.

    ``cut`` stands in place of what :func:`plan` says.
    """
    cut = plan(samples * side * side, inputs, outputs) if cut is None else cut
    split = cut.splits > 1
    sizes = ("pixels", "inputs", "outputs", *(("height", "width") if side % 16 == 0 else ()))
    kinds = {
        **dict.fromkeys(("x", "weight", "bias", "residual", "y"), f"*{element}"),
        **dict.fromkeys(("pixels", "height", "width", "inputs", "outputs", "steps"), "i32"),
        **{
            f"{t}_{axis}_stride": "i32"
            for t in ("x", "residual", "y")
            for axis in ("sample", "row", "column")
        },
        **{f"weight_{axis}_stride": "i32" for axis in ("output", "row", "column")},
        "parts": "*fp32",
    }
    label = f"[{samples}, {inputs}, {side}, {side}] to {outputs} {element}"

    def build(kernel: triton.JITFunction, values: dict[str, int | bool], warps: int, stages: int) -> Build:
        arguments = {n: kinds[n] for n in kernel.arg_names if n in kinds}
        if kernel is conv3x3 and split:
            arguments["y"] = "*fp32"
        known = tuple(n for n in sizes if n in arguments)
        return Build(kernel, label, arguments, values, warps, stages, sizes=known)

    terms: dict[str, int | bool] = {"BIAS": not split, "RESIDUAL": not split}
    found = [build(conv3x3, terms | constants(cut, inputs), cut.warps, cut.stages)]
    if split:
        rows, lanes = reduce_tile(outputs)
        values = {"BIAS": True, "RESIDUAL": True, "SPLITS": cut.splits, "PIXELS": rows, "OUTPUTS": lanes}
        found.append(build(add_splits, values, REDUCE_WARPS, 1))
    return found


def descriptor_builds(
    samples: int, side: int, inputs: int, outputs: int, element: str = "fp16"
) -> list[Build]:
    """The convolution of a shape with its tiles fetched by descriptors, cut as :func:`plan` says; none where it cannot be."""
    cut = plan(samples * side * side, inputs, outputs)._replace(loads=DESCRIPTORS)
    boxes = box(cut.pixels, side, side)
    if boxes is None or inputs % cut.inputs:
        return []
    kernel, split = conv3x3_descriptors, cut.splits > 1
    kinds = {
        "x": f"tensordesc<{element}[{','.join(map(str, (*boxes, cut.inputs)))}]>",
        "weight": f"tensordesc<{element}[{cut.outputs},{cut.inputs}]>",
        **dict.fromkeys(("bias", "residual", "y"), f"*{element}"),
    }
    arguments = {n: kinds.get(n, "i32") for n in kernel.arg_names if not n.isupper()}
    if split:
        arguments["y"] = "*fp32"
    values: dict[str, int | bool] = {"BIAS": not split, "RESIDUAL": not split}
    values |= constants(cut, inputs, side, side)
    label = f"[{samples}, {inputs}, {side}, {side}] to {outputs} {element}, by descriptors"
    sizes = ("pixels", "inputs", "outputs")
    return [Build(kernel, label, arguments, values, cut.warps, cut.stages, sizes=sizes)]


def glide_shapes(one_prompt: bool = False) -> list[tuple[int, int, int, int]]:
    """Samples, side, inputs and outputs of GLIDE's 3x3 convolutions at stride 1, without those at the two ends of a network."""
    found = set()
    for call in fake_calls("convolution", torch.float16, "cuda", one_prompt=one_prompt):
        outputs, inputs, *kernel = call.weight.shape
        if kernel == [3, 3] and call.stride == 1 and min(inputs, outputs) >= 64:
            found.add((call.x.shape[0], call.x.shape[2], inputs, outputs))
    return sorted(found)


def default_builds() -> list[Build]:
    """What a guided sampling run of one prompt would launch in fp16."""
    return [build for shape in glide_shapes(one_prompt=True) for build in builds(*shape)]


def candidate_builds() -> list[Build]:
    """Every plan of GLIDE's calls in fp16."""
    return [
        build
        for shape in glide_shapes()
        for cut in plans(shape[0] * shape[1] ** 2, *shape[2:])
        for build in builds(*shape, cut=cut)
    ] + [build for shape in glide_shapes() for build in descriptor_builds(*shape)]


def shipped_builds() -> list[Build]:
    """The other batch sizes that are benchmarked, and bf16."""
    found = [
        build for element in ("fp16", "bf16") for shape in glide_shapes() for build in builds(*shape, element)
    ]
    return found + [build for shape in glide_shapes() for build in descriptor_builds(*shape)]
