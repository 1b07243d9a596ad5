"""The 3x3 convolution's Triton kernels against fp64, interpreted or on a device; test_triton.py runs this in its own process."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from glide_fast.kernels import convolution as kernels
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.interpreter import teach_bfloat16
from support.triton_device import DEVICE

from glide_fast.errors import BackendError
from glide_fast.ops import convolution
from glide_fast.ops.backends import force
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.layout import pixel_strides
from glide_fast.ops.triton_runtime import interpreting

op = importlib.import_module("glide_fast.ops.convolution")

HALF_UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
if interpreting():
    teach_bfloat16()


def window(shape: tuple[int, ...], dtype: torch.dtype, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A buffer full of ``fill``, and a channels-last picture inside it with room on every side."""
    n, c, height, width = shape
    arena = torch.full((n, height + 2, width + 3, c + 4), fill, dtype=dtype, device=DEVICE)
    return arena, arena[:, 1:-1, 1:-2, 2:-2].permute(0, 3, 1, 2)


def arguments(
    n: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    bias: torch.dtype | None,
    residual: bool,
    seed: int = 0,
    mean: float = 2.3,
) -> dict[str, Any]:
    """Operands inside buffers of NaN: any read outside of them would show."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    def inside(values: torch.Tensor) -> torch.Tensor:
        found = window(tuple(values.shape), dtype, float("nan"))[1]
        return found.copy_(values)

    return {
        "x": inside(normal(n, inputs, height, width) * 0.5 + mean),
        "weight": inside(normal(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5),
        "bias": None if bias is None else normal(outputs).to(DEVICE, bias),
        "residual": inside(normal(n, outputs, height, width)) if residual else None,
    }


def launched(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    cut: kernels.Plan | None = None,
) -> torch.Tensor:
    """The kernels' result, out of an output and a workspace full of NaN, with canaries around both."""
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    arena, y = window(shape, x.dtype, 7.0)
    y.fill_(float("nan"))
    plan = cut or kernels.plan(x.shape[0] * x.shape[2] * x.shape[3], x.shape[1], weight.shape[0])
    count = plan.splits * y.numel()
    workspace = torch.full((count + 64,), float("nan"), device=DEVICE)
    workspace[count:] = 7.0
    strides = [pixel_strides(t) for t in (x, weight, y if residual is None else residual, y)]
    kernels.launch(x, weight, bias, residual, y, *strides, cut=cut, workspace=workspace)
    result = y.clone()
    y.fill_(7.0)
    assert bool((arena == 7).all()), "something was written outside the output"
    assert bool((workspace[count:] == 7).all()), "something was written outside the workspace"
    return result


def exact(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None
) -> torch.Tensor:
    offset = None if bias is None else bias.double()
    y = F.conv2d(x.double(), weight.double(), offset, padding=1)
    return y if residual is None else y + residual.double()


def allowance(call: dict[str, Any]) -> torch.Tensor:
    """Half a unit of the result, and what sums of this length in fp32 may err, element by element."""
    x, weight = call["x"], call["weight"]
    size = F.conv2d(x.double().abs(), weight.double().abs(), padding=1)
    for term, view in (("bias", (-1, 1, 1)), ("residual", None)):
        if call[term] is not None:
            magnitude = call[term].double().abs()
            size = size + (magnitude if view is None else magnitude.view(view))
    # A device's tensor cores cut products off where they align them, all in one direction: half a unit of fp32 for each term.
    unit = 2.0**-20 if interpreting() else max(2.0**-20, weight[0].numel() * 2.0**-24)
    return exact(**call).abs() * HALF_UNIT[x.dtype] * 1.001 + size * unit + 2.0**-24


@st.composite
def cuts(draw: st.DrawFn) -> tuple[dict[str, int], kernels.Plan | None]:
    """A shape, odd ones among them, and a cut: its own, or small tiles with the sum split in up to five."""
    shape = {
        "n": draw(st.integers(1, 2)),
        "inputs": draw(st.sampled_from([3, 16, 17, 40])),
        "outputs": draw(st.sampled_from([1, 6, 16, 33])),
        "height": draw(st.integers(1, 5)),
        "width": draw(st.integers(1, 5)),
    }
    if draw(st.booleans()):
        return shape, None
    tile = st.sampled_from([16, 32])
    step = draw(tile)
    steps = 9 * -(-shape["inputs"] // step)
    wanted = draw(st.integers(1, 5))
    splits = -(-steps // -(-steps // wanted))
    return shape, kernels.Plan(draw(tile), draw(tile), step, splits, 4, 2)


# Making a failure small takes the interpreter minutes.
@settings(max_examples=20 if interpreting() else 40, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    shape_and_cut=cuts(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    bias=st.sampled_from([None, torch.float32, torch.float16]),
    residual=st.booleans(),
    mean=st.sampled_from([0.0, 2.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_errs_by_one_rounding(
    shape_and_cut: tuple[dict[str, int], kernels.Plan | None],
    dtype: torch.dtype,
    bias: torch.dtype | None,
    residual: bool,
    mean: float,
    seed: int,
) -> None:
    shape, cut = shape_and_cut
    call = arguments(**shape, dtype=dtype, bias=bias, residual=residual, seed=seed, mean=mean)
    error = (launched(**call, cut=cut).double() - exact(**call)).abs()
    assert bool((error <= allowance(call)).all()), float((error - allowance(call)).max())


@pytest.mark.parametrize(
    ("n", "height", "width", "outputs", "pixels", "splits"),
    [(2, 4, 4, 24, 16, 1), (3, 4, 4, 16, 32, 3), (1, 2, 32, 33, 16, 1), (2, 6, 8, 16, 16, 2)],
    ids=["a picture", "two pictures", "a part of a line", "lines"],
)
def test_tiles_by_descriptors(
    n: int, height: int, width: int, outputs: int, pixels: int, splits: int
) -> None:
    if not interpreting() and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("this device has no TMA")
    call = arguments(n, 32, outputs, height, width, torch.float16, torch.float16, True)
    call |= {
        name: call[name].contiguous(memory_format=torch.channels_last) for name in ("x", "weight", "residual")
    }
    # On a device the products of tensor cores have 64 rows.
    cut = kernels.Plan(pixels, 16, 16, splits, 4, 2, kernels.DESCRIPTORS)
    error = (launched(**call, cut=cut).double() - exact(**call)).abs()
    assert bool((error <= allowance(call)).all()), float((error - allowance(call)).max())


@pytest.mark.parametrize(
    ("change", "pixels"),
    [({"x": (1, 12, 4, 4)}, 16), ({"x": (1, 32, 3, 5)}, 16), ({"x": (1, 32, 4, 4), "strided": True}, 16)],
    ids=["channels", "lines", "weight"],
)
def test_descriptors_are_refused_where_the_hardware_takes_none(change: dict[str, Any], pixels: int) -> None:
    n, inputs, height, width = change["x"]
    call = arguments(n, inputs, 16, height, width, torch.float16, None, False)
    call["x"] = call["x"].contiguous(memory_format=torch.channels_last)
    if not change.get("strided"):
        call["weight"] = call["weight"].contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="loads by pointers"):
        launched(**call, cut=kernels.Plan(pixels, 16, 4, 1, 4, 2, kernels.DESCRIPTORS))


@pytest.mark.parametrize("splits", [1, 3], ids="{} splits".format)
def test_an_identity_at_each_tap_moves_the_picture(splits: int) -> None:
    """Exactly, by one pixel, with zeros coming in: every tap, its direction and the padding."""
    x = arguments(1, 16, 16, 5, 3, torch.float16, None, False)["x"]
    cut = kernels.Plan(16, 16, 16, splits, 4, 2)
    padded = F.pad(x, (1, 1, 1, 1))
    for tap in range(9):
        down, right = divmod(tap, 3)
        weight = torch.zeros(16, 16, 3, 3, dtype=torch.float16, device=DEVICE)
        weight[:, :, down, right] = torch.eye(16)
        weight = weight.contiguous(memory_format=torch.channels_last)
        moved = padded[:, :, down : down + 5, right : right + 3]
        assert torch.equal(launched(x, weight, None, None, cut), moved)


def test_a_split_sum_is_the_same_each_time_and_in_any_batch() -> None:
    call = arguments(2, 17, 16, 3, 3, torch.float16, torch.float16, True)
    cut = kernels.Plan(16, 16, 16, 5, 4, 2)
    together = launched(**call, cut=cut)
    assert torch.equal(launched(**call, cut=cut), together)
    for i in range(2):
        one = call | {name: call[name][i : i + 1] for name in ("x", "residual")}
        assert torch.equal(launched(**one, cut=cut), together[i : i + 1])


def test_a_sum_near_the_range_of_fp16_is_rounded_once() -> None:
    """Before the residual is added the sum is beyond fp16: rounded there, it would stay infinite."""
    x, weight = (
        torch.ones(shape, dtype=torch.float16, device=DEVICE) for shape in ((1, 16, 3, 3), (8, 16, 3, 3))
    )
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x * 60, weight * 8))
    residual = torch.full((1, 8, 3, 3), -6e4, dtype=torch.float16, device=DEVICE)
    residual = residual.to(memory_format=torch.channels_last)
    for splits in (1, 3):
        y = launched(x, weight, None, residual, kernels.Plan(16, 16, 16, splits, 4, 2))
        assert float(y[0, 0, 1, 1]) == 60 * 8 * 16 * 9 - 6e4


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_their_neighbourhood_only(value: float) -> None:
    call = arguments(2, 17, 6, 5, 6, torch.float16, torch.float16, True)
    call["x"][1, 16, 0, 4] = value
    y = launched(**call, cut=kernels.Plan(32, 16, 32, 2, 4, 2))
    spoiled = torch.zeros(2, 6, 5, 6, dtype=torch.bool)
    spoiled[1, :, :2, 3:] = True
    assert torch.equal(~y.isfinite().cpu(), spoiled)


def test_forced_it_serves_the_public_op_and_unforced_it_says_why_it_does_not() -> None:
    call = arguments(1, 16, 8, 4, 4, torch.float16, torch.float32, True)
    call = {
        name: value if value.dim() == 1 else value.contiguous(memory_format=torch.channels_last)
        for name, value in call.items()
    }
    with force(convolution="triton"):
        y = convolution(**call)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert bool(((y.double() - exact(**call)).abs() <= allowance(call)).all())
    verdicts = {verdict.backend: verdict for verdict in op.OP.explain(Call(**call).facts()).verdicts}
    assert "cuDNN was as fast" in str(verdicts["triton"].reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stride": 2}, "stride 1"),
        ({"padding": 0}, "padding 1"),
        ({"weight": torch.zeros(8, 16, 1, 1).half()}, "3x3"),
        ({"x": torch.zeros(1, 16, 4, 4).half()}, "x or residual is not channels-last"),
        ({"weight": torch.zeros(8, 16, 3, 3).half()}, "weight is packed or not channels-last"),
        ({"bias": torch.zeros(16, device=DEVICE)[::2]}, "bias is not side by side"),
    ],
    ids=["stride", "padding", "1x1", "x", "weight", "bias"],
)
def test_it_declines_with_a_reason(change: dict[str, Any], reason: str) -> None:
    call = arguments(1, 16, 8, 4, 4, torch.float16, torch.float32, False)
    call["x"], call["weight"] = (
        call[name].contiguous(memory_format=torch.channels_last) for name in ("x", "weight")
    )
    call |= {n: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for n, v in change.items()}
    with force(convolution="triton"), pytest.raises(BackendError, match=reason):
        convolution(**call)
