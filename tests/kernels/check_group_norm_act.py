"""group_norm_act's Triton kernels against fp64, interpreted or on a device: test_kernels.py runs this in a process of its own."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from glide_fast.kernels import group_norm_act as kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import teach_bfloat16

from glide_fast.ops import group_norm_act
from glide_fast.ops.backends import force
from glide_fast.ops.layout import channel_rows
from glide_fast.ops.triton_runtime import interpreting

op = importlib.import_module("glide_fast.ops.group_norm_act")

DEVICE = "cpu" if interpreting() else "cuda"
HALF_UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
if interpreting():
    teach_bfloat16()


def inputs(
    n: int,
    c: int,
    positions: int,
    dtype: torch.dtype,
    film: bool,
    mean: float = 2.3,
    std: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments whose x lies inside a larger buffer of NaN: any read outside of it would show."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    arena = torch.full((n, positions + 3, c + 16), float("nan")).to(dtype)
    arena[:, 1 : positions + 1, 8 : c + 8] = normal(n, positions, c) * std + mean
    x = arena.to(DEVICE)[:, 1 : positions + 1, 8 : c + 8].transpose(1, 2)
    arguments: dict[str, Any] = {"x": x, "weight": 1 + 0.5 * normal(c), "bias": normal(c)}
    if film:
        arguments["scale"], arguments["shift"] = normal(n, 2 * c).to(dtype).chunk(2, dim=1)
    return {name: value.to(DEVICE) for name, value in arguments.items()}


def launched(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
    cut: kernels.Plan | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """The kernels' result, out of an output full of NaN between canaries."""
    n, c, positions = x.shape
    arena = torch.full((n, positions + 2, c + 8), 7.0, dtype=x.dtype, device=DEVICE)
    y = arena[:, 1 : positions + 1, 4 : c + 4].transpose(1, 2)
    y.fill_(float("nan"))
    x_rows, y_rows = channel_rows(x), channel_rows(y)
    assert x_rows is not None and y_rows is not None
    kernels.launch(x, y, (*x_rows, *y_rows), positions, weight, bias, groups, 1e-5, scale, shift, silu, cut)
    result = y.clone()
    y.fill_(7.0)
    assert bool((arena == 7).all()), "something was written outside the output"
    return result


def exact(arguments: dict[str, Any], groups: int, silu: bool) -> torch.Tensor:
    wide = {name: value.double() for name, value in arguments.items()}
    return op.reference(**wide, groups=groups, silu=silu)


def plain_chain(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """What eager torch does in the precision of x, each operation rounded."""
    y = F.group_norm(x.contiguous(), groups, weight.to(x.dtype), bias.to(x.dtype))
    if scale is not None and shift is not None:
        y = y * (1 + scale[..., None]) + shift[..., None]
    return F.silu(y) if silu else y


def worst(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, relative to the larger of 1 and the value."""
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max())


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, int, kernels.Plan | None]:
    """Samples, groups, channels in a group, positions, and a cut of them: one pass or two, columns that divide or do not."""
    n, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))
    group, positions = draw(st.sampled_from([1, 2, 3, 6, 12])), draw(st.integers(2, 24))
    if draw(st.booleans()):
        return n, groups, group, positions, None
    slab = group * draw(st.sampled_from([k for k in (1, 2, 4) if k <= groups]))
    rows = draw(st.sampled_from([4, 8]))
    chunk = rows * draw(st.integers(1, 2))
    chunks = -(-positions // chunk)
    return (
        n,
        groups,
        group,
        positions,
        kernels.Plan(slab, draw(st.sampled_from([4, 16])), rows, chunk, chunks),
    )


@settings(max_examples=80 if interpreting() else 100)
@given(
    cut=cuts(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    film=st.booleans(),
    silu=st.booleans(),
    spread=st.sampled_from([(0.0, 1.0), (2.3, 0.5), (-1e4, 30.0), (5e4, 3e3)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_error_is_at_most_twice_that_of_plain_torch(
    cut: tuple[int, int, int, int, kernels.Plan | None],
    dtype: torch.dtype,
    film: bool,
    silu: bool,
    spread: tuple[float, float],
    seed: int,
) -> None:
    n, groups, group, positions, how = cut
    arguments = inputs(n, groups * group, positions, dtype, film, *spread, seed)
    y = launched(**arguments, groups=groups, silu=silu, cut=how)
    truth = exact(arguments, groups, silu)
    allowed = 2 * worst(plain_chain(**arguments, groups=groups, silu=silu), truth)
    # Where the chain is lucky: a few roundings of intermediates, and the mean's own in fp32, as the gain enlarges it.
    deviation = arguments["x"].double().reshape(n, groups, -1).var(-1, correction=0).add(1e-5).sqrt().min()
    gain = arguments["weight"].abs().max() * (1 + (arguments["scale"].float().abs().max() if film else 0))
    mean_rounding = 4 * 2.0**-24 * float(arguments["x"].float().abs().max() * gain / deviation)
    floor = {torch.float32: 10, torch.float16: 1.2, torch.bfloat16: 1.2}[dtype] * HALF_UNIT[dtype]
    assert worst(y, truth) <= max(allowed, floor + mean_rounding)


@pytest.mark.parametrize("positions", [64, 344], ids=["one pass", "two passes"])
def test_glide_shapes_through_the_public_op(positions: int) -> None:
    arguments = inputs(1, 192, positions, torch.float16, film=True)
    assert (kernels.plan(1, positions, 192, 32, 2).chunks > 1) == (positions == 344)
    with force(group_norm_act="triton"):
        y = group_norm_act(**arguments, groups=32, silu=True)
    assert y.dtype == torch.float16 and channel_rows(y) is not None
    assert worst(y, exact(arguments, 32, True)) <= 1.2 * 2.0**-11


@pytest.mark.parametrize("cut", [None, kernels.Plan(12, 16, 8, 8, 4)], ids=["one pass", "two passes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_spoil_their_own_group_only(cut: kernels.Plan | None, value: float) -> None:
    arguments = inputs(2, 12, 25, torch.float32, film=True)
    arguments["x"][1, 5, 11] = value  # sample 1, group 1 of 3
    spoiled = torch.zeros(2, 12, 25, dtype=torch.bool)
    spoiled[1, 4:8] = True
    y = launched(**arguments, groups=3, silu=True, cut=cut)
    assert torch.equal(y.isnan().cpu(), spoiled)


@pytest.mark.parametrize("cut", [None, kernels.Plan(8, 8, 8, 16, 4)], ids=["one pass", "two passes"])
def test_an_outlier_at_the_first_position_does_not_spoil_the_variance(cut: kernels.Plan | None) -> None:
    arguments = inputs(1, 8, 60, torch.float32, False, 0.0, 1.0)
    arguments["x"][:, :, 0] = 3e4
    truth = exact(arguments, 2, False)
    plain = worst(plain_chain(**arguments, groups=2, silu=False), truth)
    assert worst(launched(**arguments, groups=2, silu=False, cut=cut), truth) <= 2 * plain + 2.0**-22


def test_silu_over_its_whole_range() -> None:
    values = torch.linspace(-1, 1, 2001, device=DEVICE)
    one, zero = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    scale = torch.full((1, 1), 150.0, device=DEVICE)
    x = values.view(1, 1, -1)
    y = launched(x, one, zero, 1, True, None, scale, torch.zeros_like(scale))
    truth = op.reference(x.double(), one, zero, 1, 1e-5, scale, zero.view(1, 1), True)
    assert truth.min() < -0.27 and truth.max() > 250
    assert float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max()) < 1e-5
