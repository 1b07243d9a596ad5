"""group_norm_act's Triton kernels against fp64, interpreted or on a device: test_triton.py runs this in a process of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from glide_fast.kernels import group_norm_act as kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import teach_bfloat16
from support.triton_device import DEVICE

from glide_fast.ops import group_norm_act
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act import triton as group_norm_act_triton
from glide_fast.ops.group_norm_act.arguments import Call, Result
from glide_fast.ops.group_norm_act.reference import reference, reference_sum
from glide_fast.ops.group_norm_act.reference import windows as windows_of
from glide_fast.ops.layout import channel_rows
from glide_fast.ops.triton_runtime import interpreting

HALF_UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
DTYPES = list(HALF_UNIT)
SUMMANDS = ("residual", "x_bias")
if interpreting():
    teach_bfloat16()


def inputs(
    n: int,
    c: int,
    lines: tuple[int, int],
    dtype: torch.dtype,
    film: bool = False,
    mean: float = 2.3,
    std: float = 0.5,
    seed: int = 0,
    *,
    x2: int = 0,
    residual: bool = False,
    x_bias: bool = False,
) -> dict[str, Any]:
    """Tensors of a call; ``x2`` of the ``c`` channels are the second input's.

    Activations lie inside larger buffers of NaN: any read outside of them would show.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    def activation(channels: int, gap: int, mean: float, std: float) -> torch.Tensor:
        positions = lines[0] * lines[1]
        arena = torch.full((n, positions + 3, channels + 2 * gap), float("nan")).to(dtype)
        inner = arena[:, 1 : positions + 1, gap : channels + gap]
        inner.copy_(normal(n, positions, channels) * std + mean)
        moved = arena.to(DEVICE)[:, 1 : positions + 1, gap : channels + gap]
        return moved.unflatten(1, lines).movedim(-1, 1)

    own = c - x2
    tensors = {"x": activation(own, 8, mean, std), "weight": 1 + 0.5 * normal(c), "bias": normal(c)}
    if x2:
        tensors["x2"] = activation(x2, 3, mean, std)
    if residual:
        tensors["residual"] = activation(own, 5, 0.0, std)
    if x_bias:
        tensors["x_bias"] = (std * normal(own)).to(dtype)
    if film:
        tensors["scale"], tensors["shift"] = normal(n, 2 * c).to(dtype).chunk(2, dim=1)
    return {name: tensor.to(DEVICE) for name, tensor in tensors.items()}


class Canaries:
    """An output full of NaN between values that must stay what they are; of windows a row is all nine pixels of one."""

    def __init__(self, like: torch.Tensor) -> None:
        self.taps = like.shape[3] if like.dim() == 5 else 0
        if self.taps:
            like = like.flatten(3).permute(0, 3, 1, 2)
        n, c, height, width = like.shape
        self.arena = torch.full((n, height * width + 2, c + 8), 7.0, dtype=like.dtype, device=like.device)
        inner = self.arena[:, 1 : height * width + 1, 4 : c + 4]
        self.tensor = inner.unflatten(1, (height, width)).movedim(-1, 1)
        self.tensor.fill_(float("nan"))
        if self.taps:
            self.tensor = self.tensor.movedim(1, -1).unflatten(-1, (self.taps, -1))

    def result(self) -> torch.Tensor:
        found = self.tensor.clone()
        self.tensor.fill_(7.0)
        assert bool((self.arena == 7).all()), "something was written outside the output"
        return found


def launched(cut: kernels.Plan | None = None, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The backend's y, and the sum where one was asked for."""
    call = Call(**arguments)
    y = Canaries(call.empty_y())
    total = Canaries(call.empty_sum()) if call.keep_sum and call.adds else None
    kept = None if total is None else total.tensor
    group_norm_act_triton.run(call, out=Result(y.tensor, kept), cut=cut)
    return y.result(), None if total is None else total.result()


def exact(arguments: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """y in fp64, and the sum: what is normalised is rounded to x's type once, so it is exact too."""
    a = {name: value for name, value in arguments.items() if name not in (*SUMMANDS, "keep_sum", "out_dtype")}
    total = reference_sum(a["x"], *(arguments.get(name) for name in SUMMANDS))
    a["x"] = total
    wide = {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in a.items()}
    return reference(**wide), total


def plain_chain(arguments: dict[str, Any]) -> torch.Tensor:
    """What eager torch does in the precision of the result, each operation rounded."""
    a = {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    dtype = arguments.get("out_dtype") or a["x"].dtype
    x = exact(arguments)[1]
    whole = (torch.cat([x, a["x2"]], dim=1) if "x2" in a else x).to(dtype).contiguous()
    y = F.group_norm(whole, arguments["groups"], a["weight"].to(dtype), a["bias"].to(dtype))
    if "scale" in a:
        y = y * (1 + a["scale"][..., None, None]) + a["shift"][..., None, None]
    y = F.silu(y) if arguments.get("silu") else y
    if arguments.get("resample") is not None:
        nearest = arguments["resample"] == "nearest_x2"
        y = F.interpolate(y, scale_factor=2.0) if nearest else F.avg_pool2d(y, 2)
    return windows_of(y) if arguments.get("windows") else y


def worst(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, relative to the larger of 1 and the value."""
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max())


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Samples, groups, channels, image lines, resampling, and a cut: one pass or two, columns that divide or do not."""
    groups, group = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 3, 6, 12]))
    lines = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)).filter(lambda lines: max(lines) > 1))
    resample = draw(st.sampled_from([None, "nearest_x2", "mean_2x2"]))
    if resample == "mean_2x2":
        lines = (2 * lines[0], 2 * lines[1])
    cut = None
    if draw(st.booleans()):
        slab = group * draw(st.sampled_from([k for k in (1, 2, 4) if k <= groups]))
        rows = draw(st.sampled_from([4, 8]))
        chunk = rows * draw(st.integers(1, 2))
        chunks = -(-lines[0] * lines[1] // chunk)
        cut = kernels.Plan(slab, draw(st.sampled_from([4, 16])), rows, chunk, chunks)
    return {"n": draw(st.integers(1, 2)), "groups": groups, "c": groups * group, "lines": lines,
            "resample": resample, "cut": cut, "x2": draw(st.integers(0, groups * group - 1))}  # fmt: skip


@settings(max_examples=60)
@given(
    shape=shapes(),
    dtype=st.sampled_from(DTYPES),
    film=st.booleans(),
    silu=st.booleans(),
    wide=st.booleans(),
    residual=st.booleans(),
    x_bias=st.booleans(),
    keep_sum=st.booleans(),
    windows=st.booleans(),
    spread=st.sampled_from([(0.0, 1.0), (2.3, 0.5), (-1e4, 30.0), (5e4, 3e3)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_error_is_at_most_twice_that_of_plain_torch(
    shape: dict[str, Any],
    dtype: torch.dtype,
    film: bool,
    silu: bool,
    wide: bool,
    residual: bool,
    x_bias: bool,
    keep_sum: bool,
    windows: bool,
    spread: tuple[float, float],
    seed: int,
) -> None:
    cut, groups, resample = (shape.pop(name) for name in ("cut", "groups", "resample"))
    arguments = inputs(
        **shape, dtype=dtype, film=film, mean=spread[0], std=spread[1], seed=seed, residual=residual, x_bias=x_bias
    )  # fmt: skip
    out_dtype = torch.float32 if wide else None
    arguments |= {
        "groups": groups,
        "silu": silu,
        "keep_sum": keep_sum,
        "resample": resample,
        "out_dtype": out_dtype,
        "windows": windows,
    }
    y, total = launched(cut, **arguments)
    truth, true_total = exact(arguments)
    assert y.shape == truth.shape and (total is not None) == (keep_sum and (residual or x_bias))
    assert total is None or torch.equal(total, true_total)
    # 65504 may be exceeded by a sum: what then is infinite, or NaN, is so for everybody.
    finite = bool(true_total.isfinite().all())
    if not finite:
        assert torch.equal(y.isfinite(), truth.isfinite())
        return
    allowed = 2 * worst(plain_chain(arguments), truth)
    # Where the chain is lucky: a few roundings of intermediates, and the mean's own in fp32, as the gain enlarges it.
    whole = torch.cat([true_total, arguments["x2"]], dim=1) if shape["x2"] else true_total
    deviation = whole.double().reshape(shape["n"], groups, -1).var(-1, correction=0).add(1e-5).sqrt().min()
    gain = arguments["weight"].abs().max() * (1 + (arguments["scale"].float().abs().max() if film else 0))
    mean_rounding = 4 * 2.0**-24 * float(whole.float().abs().max() * gain / deviation)
    floor = (10 if y.dtype == torch.float32 else 1.2) * HALF_UNIT[y.dtype]
    assert worst(y, truth) <= max(allowed, floor + mean_rounding)


@pytest.mark.parametrize("lines", [(8, 8), (16, 22)], ids=["one pass", "two passes"])
def test_glide_shapes_through_the_public_op(lines: tuple[int, int]) -> None:
    arguments = inputs(1, 192, lines, torch.float16, film=True, x2=64, residual=True, x_bias=True)
    arguments |= {
        "groups": 32,
        "silu": True,
        "keep_sum": True,
        "resample": "mean_2x2",
        "out_dtype": torch.float32,
    }
    cut = kernels.plan(1, lines[0] * lines[1], 192, 32, 2, with_residual=True)
    assert (cut.chunks > 1) == (lines == (16, 22))
    with force(group_norm_act="triton"):
        y, total = group_norm_act(**arguments)
    truth, true_total = exact(arguments)
    assert y.dtype == torch.float32 and channel_rows(y) is not None and torch.equal(total, true_total)
    assert worst(y, truth) <= 4e-6


@pytest.mark.parametrize("cut", [None, kernels.Plan(12, 16, 8, 8, 4)], ids=["one pass", "two passes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["x", "residual", "x2"])
def test_nan_and_infinity_spoil_their_own_group_only(
    cut: kernels.Plan | None, value: float, where: str
) -> None:
    extra = {"x2": {"x2": 6}, "residual": {"residual": True}}.get(where, {})
    arguments = inputs(2, 12, (5, 5), torch.float32, True, **extra)
    channel = 5  # of the spoiled tensor; of sample 1
    arguments[where][1, channel, 2, 1] = value
    group = (channel + 6 if where == "x2" else channel) // 4
    spoiled = torch.zeros(2, 12, 5, 5, dtype=torch.bool)
    spoiled[1, 4 * group : 4 * group + 4] = True
    y, _ = launched(cut, **arguments, groups=3, silu=True)
    assert torch.equal(y.isnan().cpu(), spoiled)


@pytest.mark.parametrize("cut", [None, kernels.Plan(8, 8, 8, 16, 4)], ids=["one pass", "two passes"])
def test_an_outlier_at_the_first_position_does_not_spoil_the_variance(cut: kernels.Plan | None) -> None:
    arguments = inputs(1, 8, (10, 6), torch.float32, False, 0.0, 1.0) | {"groups": 2}
    arguments["x"][:, :, 0, 0] = 3e4
    truth, _ = exact(arguments)
    plain = worst(plain_chain(arguments), truth)
    assert worst(launched(cut, **arguments)[0], truth) <= 2 * plain + 2.0**-22


def test_silu_over_its_whole_range() -> None:
    x = torch.linspace(-1, 1, 2001, device=DEVICE).view(1, 1, 1, -1)
    one, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    scale = torch.full((1, 1), 150.0, device=DEVICE)
    arguments = {
        "x": x,
        "weight": one,
        "bias": zero,
        "groups": 1,
        "scale": scale,
        "shift": scale * 0,
        "silu": True,
    }
    y, _ = launched(**arguments)
    truth, _ = exact(arguments)
    assert truth.min() < -0.27 and truth.max() > 250
    assert worst(y, truth) < 1e-5


@pytest.mark.parametrize("lines", [(6, 8), (16, 22)], ids=["one pass", "two passes"])
def test_a_batch_beyond_a_grid_is_cut(monkeypatch: pytest.MonkeyPatch, lines: tuple[int, int]) -> None:
    arguments = inputs(5, 12, lines, torch.float16, True, x2=4, residual=True, x_bias=True)
    arguments |= {"groups": 2, "silu": True, "keep_sum": True}
    whole = launched(**arguments)
    monkeypatch.setattr(group_norm_act_triton, "MOST_SAMPLES", 2)
    for together, cut in zip(whole, launched(**arguments), strict=True):
        assert together is not None and cut is not None and torch.equal(together, cut)


@pytest.mark.parametrize("cut", [None, kernels.Plan(48, 16, 16, 16, 3)], ids=["one pass", "two passes"])
def test_runs_agree_to_the_bit(cut: kernels.Plan | None) -> None:
    arguments = inputs(2, 96, (6, 8), torch.float16, True, x2=32, residual=True, x_bias=True)
    arguments |= {"groups": 16, "silu": True, "keep_sum": True}
    first, *others = (launched(cut, **arguments) for _ in range(2 if interpreting() else 20))
    for other in others:
        assert torch.equal(first[0], other[0]) and torch.equal(first[1], other[1])
