"""A 3x3 convolution from many channels to few, with fp32 weights and an fp32 result, of pixels in fp16 or fp32.

A tile of such a convolution would read every pixel nine times for a handful of results. So every pixel is read once, and
multiplied by the weights of all nine taps: a matrix product with 9 O columns, written in fp32. A second kernel adds, for every
pixel, the nine products that meet there.

Tensor cores multiply fp16. An fp32 weight goes in as the sum of two fp16 values, which keeps 22 of its 24 bits: the first is the
weight, scaled by a power of two so that the largest of its column is between 1 and 2, the second what the first leaves, scaled by
2^11. Pixels in fp32 are multiplied in three steps of TF32, which keeps as many.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from glide_fast.ops.case import fake_calls

from .build import ELEMENTS, Build

TAPS = 9
FILL = 132  # multiprocessors of an H100
MOST_COLUMNS = 128
ADD_TILE = 1024
ADD_WARPS = 4
LOW = tl.constexpr(2048.0)  # 2^11, what the second part of a weight is scaled by


class Plan(NamedTuple):
    """How a call is cut up; see :func:`plan`."""

    pixels: int  # rows of a tile of the products
    inputs: int  # input channels of a step
    warps: int
    stages: int


def plan(pixels: int, inputs: int) -> Plan:
    """The cut for ``pixels`` of all samples and input channels: a pure function of these, unmeasured on a device."""
    step = min(64, max(16, triton.next_power_of_2(inputs)))
    return Plan(128, step, 8, 3) if triton.cdiv(pixels, 128) >= 2 * FILL else Plan(64, step, 4, 3)


def plans(pixels: int, inputs: int) -> list[Plan]:
    """Every cut that is worth a measurement, the guess of :func:`plan` first."""
    guess = plan(pixels, inputs)
    others = [
        Plan(rows, min(step, guess.inputs), warps, stages)
        for rows in (64, 128)
        for step in (32, 64)
        for warps in (4, 8)
        for stages in (1, 3)
    ]
    return list(dict.fromkeys([guess, *others]))


def plans_of(call: Any) -> list[Plan]:
    """:func:`plans` of a call (:class:`glide_fast.ops.output_convolution.arguments.Call`)."""
    n, inputs, height, width = call.x.shape
    return plans(n * height * width, inputs)


def columns(outputs: int) -> int:
    """Columns of the products in memory: nine taps of ``outputs`` channels, and the rest of a power of two."""
    return max(16, triton.next_power_of_2(TAPS * outputs))


@triton.jit
def _weights(weight, first, inputs, outputs, strides, INPUTS: tl.constexpr, COLUMNS: tl.constexpr):
    """A step's weights, fp32 [INPUTS, COLUMNS]: a column is a tap's output channel, tap after tap; zeros beyond the last."""
    channel = first + tl.arange(0, INPUTS)
    column = tl.arange(0, COLUMNS)
    tap, output = column // outputs, column % outputs
    at = output * strides[0] + (tap // 3) * strides[2] + (tap % 3) * strides[3]
    mask = (channel < inputs)[:, None] & (tap < 9)[None, :]
    return tl.load(weight + at[None, :] + channel[:, None] * strides[1], mask=mask, other=0.0)


@triton.jit
def multiply_pixels(
    x,  # [pixels, inputs], dense, fp16 or fp32
    weight,  # fp32 [outputs, inputs, 3, 3]
    products,  # fp32 [pixels, COLUMNS]
    pixels,
    inputs,
    outputs,
    weight_output_stride,
    weight_input_stride,
    weight_row_stride,
    weight_column_stride,
    SPLIT: tl.constexpr,  # x is fp16, and weights are split in two
    PIXELS: tl.constexpr,
    INPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Grid (tiles of pixels,)."""
    strides = (weight_output_stride, weight_input_stride, weight_row_stride, weight_column_stride)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    lane = tl.arange(0, INPUTS)
    column = tl.arange(0, COLUMNS)
    x_at = x + pixel.to(tl.int64)[:, None] * inputs + lane[None, :]
    real = (pixel < pixels)[:, None]
    total = tl.zeros((PIXELS, COLUMNS), tl.float32)
    if SPLIT:
        largest = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, inputs, INPUTS):
            w = _weights(weight, first, inputs, outputs, strides, INPUTS, COLUMNS)
            largest = tl.maximum(largest, tl.max(tl.abs(w), axis=0))
        # Of a power of two only the exponent is not zero. The bounds keep the inverse a normal number too.
        exponent = tl.minimum(tl.maximum((largest.to(tl.int32, bitcast=True) >> 23) & 255, 1), 253)
        scale = ((254 - exponent) << 23).to(tl.float32, bitcast=True)
        inverse = (exponent << 23).to(tl.float32, bitcast=True)
        low = tl.zeros((PIXELS, COLUMNS), tl.float32)
        for first in range(0, inputs, INPUTS):
            w = _weights(weight, first, inputs, outputs, strides, INPUTS, COLUMNS) * scale[None, :]
            high_part = w.to(tl.float16)
            low_part = ((w - high_part.to(tl.float32)) * LOW).to(tl.float16)
            a = tl.load(x_at + first, mask=real & (first + lane < inputs)[None, :], other=0.0)
            total = tl.dot(a, high_part, total)
            # An infinity times what is left of a weight would be another infinity, perhaps of the other sign.
            low = tl.dot(
                tl.where(tl.abs(a.to(tl.float32)) < float("inf"), a, 0.0).to(tl.float16), low_part, low
            )
        total = (total + low * (1.0 / LOW)) * inverse[None, :]
    else:
        for first in range(0, inputs, INPUTS):
            w = _weights(weight, first, inputs, outputs, strides, INPUTS, COLUMNS)
            a = tl.load(x_at + first, mask=real & (first + lane < inputs)[None, :], other=0.0)
            total = tl.dot(a, w, total, input_precision="tf32x3")
    at = pixel.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    tl.store(products + at, total, mask=real & (column < 9 * outputs)[None, :])


@triton.jit
def add_taps(
    products,  # fp32 [N H W, COLUMNS]
    bias,  # fp32 [outputs], or None
    y,  # fp32 [N, H, W, outputs], dense
    pixels,  # N H W
    height,
    width,
    outputs,
    COLUMNS: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid (tiles of pixels,): the nine products that meet at a pixel, in the order of the taps, and the bias."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    output = tl.arange(0, OUTPUTS)
    rest = pixel % (height * width)
    row, column = rest // width, rest % width
    real = (pixel < pixels)[:, None] & (output < outputs)[None, :]
    total = tl.zeros((PIXELS, OUTPUTS), tl.float32)
    for tap in tl.static_range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        inside = (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width)
        at = (pixel + (down * width + right)).to(tl.int64) * COLUMNS
        total += tl.load(
            products + at[:, None] + (tap * outputs + output)[None, :], mask=real & inside[:, None], other=0.0
        )
    if bias is not None:
        total += tl.load(bias + output, mask=output < outputs, other=0.0)[None, :]
    tl.store(y + pixel.to(tl.int64)[:, None] * outputs + output[None, :], total, mask=real)


def add_tile(outputs: int) -> tuple[int, int]:
    """Pixels and outputs of a tile of :func:`add_taps`, powers of two."""
    lanes = triton.next_power_of_2(outputs)
    return max(1, ADD_TILE // lanes), lanes


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    *,
    cut: Plan | None = None,
    workspace: torch.Tensor | None = None,
) -> None:
    """Write the convolution of ``x`` with ``weight`` (padding 1), plus ``bias``, to ``y``.

    Args:
        x: ``[N, C, H, W]``, fp16 or fp32, dense and channels-last.
        weight: ``[O, C, 3, 3]``, fp32, in any strides; 9 O is at most 128.
        bias: ``[O]``, fp32 with stride 1, or None.
        y: ``[N, O, H, W]``, fp32, dense and channels-last.
        cut: in place of what :func:`plan` says.
        workspace: fp32, of at least N H W times :func:`columns` elements, in place of a new one.
    """
    n, inputs, height, width = x.shape
    outputs, pixels = weight.shape[0], n * height * width
    cut = plan(pixels, inputs) if cut is None else cut
    wide = columns(outputs)
    if workspace is None:
        workspace = torch.empty(pixels * wide, dtype=torch.float32, device=x.device)
    multiply_pixels[(triton.cdiv(pixels, cut.pixels),)](
        x, weight, workspace, pixels, inputs, outputs, *weight.stride(),
        **constants(cut, outputs, x.dtype == torch.float16), num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    rows, lanes = add_tile(outputs)
    add_taps[(triton.cdiv(pixels, rows),)](
        workspace, bias, y, pixels, height, width, outputs,
        COLUMNS=wide, PIXELS=rows, OUTPUTS=lanes, num_warps=ADD_WARPS,
    )  # fmt: skip


def constants(cut: Plan, outputs: int, split: bool) -> dict[str, Any]:
    """The compile-time arguments of :func:`multiply_pixels`."""
    return {"SPLIT": split, "PIXELS": cut.pixels, "INPUTS": cut.inputs, "COLUMNS": columns(outputs)}


def builds(
    samples: int, side: int, inputs: int, outputs: int, element: str = "fp16", cut: Plan | None = None
) -> list[Build]:
    """What :func:`launch` compiles for a shape with a bias. ``element``: x's Triton type; ``cut``: in place of :func:`plan`."""
    cut = plan(samples * side * side, inputs) if cut is None else cut
    label = f"[{samples}, {inputs}, {side}, {side}] {element} to {outputs}"
    kinds = {
        "x": f"*{element}",
        **dict.fromkeys(("weight", "products", "bias", "y"), "*fp32"),
        **dict.fromkeys(("pixels", "inputs", "outputs", "height", "width"), "i32"),
        **{f"weight_{axis}_stride": "i32" for axis in ("output", "row", "column")},
    }
    rows, lanes = add_tile(outputs)
    added = {"COLUMNS": columns(outputs), "PIXELS": rows, "OUTPUTS": lanes}
    # The weight is channels-last: the stride of its inputs is 1, of which a launch makes a constant.
    multiplied = constants(cut, outputs, element == "fp16") | {"weight_input_stride": 1}
    found = []
    for kernel, values, warps, stages in (
        (multiply_pixels, multiplied, cut.warps, cut.stages),
        (add_taps, added, ADD_WARPS, 1),
    ):
        arguments = {n: kinds[n] for n in kernel.arg_names if n in kinds}
        sizes = tuple(n for n in ("pixels", "inputs", "height", "width") if n in arguments)
        found.append(Build(kernel, label, arguments, values, warps, stages, sizes=sizes))
    return found


def _builds(dtype: torch.dtype, one_prompt: bool, candidates: bool = False) -> list[Build]:
    found = []
    for call in fake_calls("output_convolution", dtype, "cuda", one_prompt=one_prompt):
        n, inputs, side, _ = call.x.shape
        shape = n, side, inputs, call.weight.shape[0], ELEMENTS[call.x.dtype]
        for cut in plans_of(call) if candidates else (None,):
            found += builds(*shape, cut)
    return found


def default_builds() -> list[Build]:
    """What one prompt launches in fp16."""
    return _builds(torch.float16, True)


def candidate_builds() -> list[Build]:
    """Every plan of GLIDE's calls in fp16."""
    return _builds(torch.float16, False, candidates=True)


def shipped_builds() -> list[Build]:
    """The other batch sizes that are benchmarked, and the pixels in fp32 of a model in bf16."""
    return _builds(torch.float16, False) + _builds(torch.bfloat16, False)
