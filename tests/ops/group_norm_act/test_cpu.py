"""group_norm_act's C++ kernel against fp64, and against the plain torch chain of the same precision."""

from __future__ import annotations

import importlib
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glide_fast.errors import BackendError
from glide_fast.ops import group_norm_act, native
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act import cpu as group_norm_act_cpu
from glide_fast.ops.group_norm_act.arguments import Call, Result
from glide_fast.ops.group_norm_act.reference import reference, reference_sum
from glide_fast.ops.layout import channel_rows

op = importlib.import_module("glide_fast.ops.group_norm_act")

library = native.load()
needs_library = pytest.mark.skipif(library is None, reason=str(native.why_missing()))
ISAS = [] if library is None else library.isas()
HALF_UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, film: bool, mean: float, std: float, seed: int
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    n, c = shape[:2]

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    x = (normal(n, *shape[2:], c) * std + mean).to(dtype).movedim(-1, 1)
    arguments: dict[str, Any] = {"x": x, "weight": 1 + 0.5 * normal(c), "bias": normal(c)}
    if film:
        arguments["scale"], arguments["shift"] = normal(n, 2 * c).to(dtype).chunk(2, dim=1)
    return arguments


def inside(arena_value: float, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A copy of ``values`` ``[N, C, ...]``, channels-last within a larger buffer; the buffer and the copy."""
    n, c, *spatial = values.shape
    positions = math.prod(spatial)
    arena = torch.full((n, positions + 3, c + 16), arena_value, dtype=values.dtype)
    view = arena[:, 1 : positions + 1, 8 : c + 8].unflatten(1, spatial).movedim(-1, 1)
    view.copy_(values)
    return arena, view


def kernel(
    isa: str = "", out: torch.Tensor | None = None, total: torch.Tensor | None = None, **arguments: Any
) -> torch.Tensor:
    """The C++ kernel's result."""
    result = None if out is None else Result(out, total)
    return group_norm_act_cpu.run(Call(**arguments), out=result, isa=isa).y


def exact(arguments: dict[str, Any], groups: int, silu: bool, **options: Any) -> torch.Tensor:
    """The op in fp64, on the values that the kernel is given; the sum is rounded first, as the contract says."""
    a = dict(arguments)
    a["x"] = reference_sum(a["x"], a.pop("residual", None), a.pop("x_bias", None))
    wide = {name: value.double() for name, value in a.items()}
    return reference(**wide, groups=groups, silu=silu, **options)


def plain_chain(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    silu: bool,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    x2: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    x_bias: torch.Tensor | None = None,
    resample: str | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """What eager torch does in the precision of the result, each operation rounded."""
    total = reference_sum(x, residual, x_bias)
    total = (total if x2 is None else torch.cat([total, x2], dim=1)).to(out_dtype or x.dtype)
    y = F.group_norm(total, groups, weight.to(total.dtype), bias.to(total.dtype))
    if scale is not None and shift is not None:
        view = (*scale.shape, *([1] * (x.dim() - 2)))
        y = y * (1 + scale.view(view).to(y.dtype)) + shift.view(view).to(y.dtype)
    y = F.silu(y) if silu else y
    if resample == "mean_2x2":
        return F.avg_pool2d(y, 2)
    return y if resample is None else F.interpolate(y, scale_factor=2.0)


def worst(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, relative to the larger of 1 and the value."""
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max())


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and options of a call; channel counts that end in full vectors, in parts of one, and within a group."""
    n = draw(st.integers(1, 3))
    groups, width = draw(st.sampled_from([1, 2, 4, 32])), draw(st.sampled_from([1, 2, 3, 5, 6, 12]))
    channels = groups * width
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    resample = draw(st.sampled_from([None, None, "nearest_x2", "mean_2x2"]))
    if resample is None:
        spatial = draw(
            st.one_of(
                st.tuples(st.integers(1, 300)),
                st.tuples(st.integers(1, 20), st.integers(1, 20)),
                st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
            )
        )
    else:
        step = 2 if resample == "mean_2x2" else 1
        spatial = (step * draw(st.integers(1, 10)), step * draw(st.integers(1, 10)))
    assume(n * width * math.prod(spatial) > 1)  # torch's own group norm refuses a single value
    first = draw(st.one_of(st.just(channels), st.integers(1, channels)))
    mean, std = draw(st.sampled_from([(0.0, 1.0), (2.3, 0.5), (100.0, 0.5), (-1e4, 30.0), (5e4, 3e3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    small = draw(st.sampled_from([torch.float32, torch.bfloat16]))  # of the vectors
    a: dict[str, Any] = {
        "x": (normal(n, first, *spatial) * std + mean).to(dtype),
        "weight": (1 + 0.5 * normal(channels)).to(small),
        "bias": normal(channels).to(small),
    }
    if first < channels:
        a["x2"] = (normal(n, channels - first, *spatial) * std + mean).to(dtype)
    if draw(st.booleans()):
        a["residual"] = (normal(n, first, *spatial) * std).to(dtype)
    if draw(st.booleans()):
        a["x_bias"] = (normal(first) * std).to(small)
    if draw(st.booleans()):
        a["scale"], a["shift"] = normal(n, 2 * channels).to(small).chunk(2, dim=1)
    options = {"groups": groups, "silu": draw(st.booleans()), "resample": resample}
    options["out_dtype"] = draw(st.sampled_from([None, torch.float32]))
    return a, options


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60)
@given(call=calls(), keep_sum=st.booleans())
def test_error_is_at_most_twice_that_of_plain_torch(
    isa: str, call: tuple[dict[str, Any], dict[str, Any]], keep_sum: bool
) -> None:
    """Inputs lie in buffers of NaN, outputs hold NaN and lie between canaries."""
    a, options = call
    nan = float("nan")
    for name in ("x", "x2", "residual"):
        if name in a:
            a[name] = inside(nan, a[name])[1]
    promised = Call(**a, **options, keep_sum=keep_sum).empty_result()
    arena, y = inside(7.0, torch.full_like(promised.y, nan))
    sum_arena, total = inside(7.0, torch.full_like(a["x"], nan))
    kernel(isa, y, total if keep_sum else None, **a, **options, keep_sum=keep_sum)

    truth, dtype = exact(a, **options), y.dtype
    allowed = 2 * worst(plain_chain(**a, **options), truth)
    # Where the chain happens to be lucky: the fp32 roundings of intermediates, which weight and FiLM may make larger than the
    # result, and the result's own.
    gain = float(a["weight"].abs().max() * (1 + a["scale"].abs().max() if "scale" in a else 1))
    floor = 10 * max(gain, 1.0) * 2.0**-24 + (1.2 * HALF_UNIT[dtype] if dtype != torch.float32 else 0.0)
    assert worst(y, truth) <= max(allowed, floor)
    if keep_sum and ("residual" in a or "x_bias" in a):
        assert torch.equal(total, reference_sum(a["x"], a.get("residual"), a.get("x_bias")))
    y.fill_(7.0)
    total.fill_(7.0)
    assert (arena == 7).all() and (sum_arena == 7).all(), "something was written outside the output"


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [192, 576, 1152, 1536])
def test_glide_shapes_through_the_public_op(channels: int, dtype: torch.dtype) -> None:
    arguments = inputs((2, channels, 16, 16), dtype, True, 2.3, 0.5, channels)
    with force(group_norm_act="cpu"):
        y = group_norm_act(**arguments, groups=32, silu=True)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert worst(y, exact(arguments, 32, True)) <= {torch.float32: 4e-6, torch.bfloat16: 0.0041}[dtype]


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_block_through_the_public_op(dtype: torch.dtype) -> None:
    """The skip connection, the bias of the convolution before, and the upsampling after: 384 and 192 channels in 32 groups."""
    a = inputs((2, 576, 8, 8), dtype, True, 2.3, 0.5, 0)
    a["x"], a["x2"] = (
        part.contiguous(memory_format=torch.channels_last) for part in a["x"].split([384, 192], 1)
    )
    a["x_bias"] = torch.randn(384, generator=torch.Generator().manual_seed(1))
    with force(group_norm_act="cpu"):
        y, total = group_norm_act(**a, groups=32, silu=True, resample="nearest_x2", keep_sum=True)
    assert y.shape == (2, 576, 16, 16) and torch.equal(total, reference_sum(a["x"], x_bias=a["x_bias"]))
    truth = exact(a, 32, True, resample="nearest_x2")
    assert worst(y, truth) <= {torch.float32: 4e-6, torch.bfloat16: 0.0041}[dtype]


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_near_the_limits_of_the_type(isa: str, dtype: torch.dtype) -> None:
    a = inputs((1, 48, 9, 8), dtype, True, 0.0, 1e18, 8)
    allowed = 2 * worst(plain_chain(**a, groups=8, silu=True), exact(a, 8, True))
    assert worst(kernel(isa, **a, groups=8, silu=True), exact(a, 8, True)) <= max(
        allowed, 1.2 * HALF_UNIT[dtype]
    )
    largest = torch.finfo(dtype).max
    a = inputs((1, 48, 8, 8), dtype, False, 0.0, 1.0, 9)
    a["x"].fill_(largest)  # no deviation at all: the bias alone is left
    y = kernel(isa, **a, groups=8)
    assert torch.equal(y, a["bias"].to(dtype)[None, :, None, None].expand_as(y))


@needs_library
def test_rows_that_jump_do_not_spoil_the_variance() -> None:
    """Whatever rows the shift is taken from, the others may lie far away: a step in the middle, and alternate rows."""
    for pattern in (torch.arange(512) >= 256, torch.arange(512) % 2 == 0, torch.arange(512) % 16 == 0):
        a = inputs((1, 8, 512), torch.float32, False, 0.0, 1.0, 10)
        a["x"] += 1000.0 * pattern
        plain = worst(plain_chain(**a, groups=2, silu=False), exact(a, 2, False))
        assert worst(kernel(**a, groups=2), exact(a, 2, False)) <= max(
            2 * plain, 10 * HALF_UNIT[torch.float32]
        )


@needs_library
def test_a_mean_of_100_costs_no_digits() -> None:
    centred = inputs((1, 64, 64, 64), torch.float32, False, 0.0, 0.5, 0)
    moved = {**centred, "x": centred["x"] + 100}
    error = [worst(kernel(**a, groups=32), exact(a, 32, False)) for a in (centred, moved)]
    # x itself holds 24 bits, so at 100 its fraction is 128 times coarser; the kernel must not add to that.
    assert error[1] <= 4 * max(error[0], HALF_UNIT[torch.float32])


@needs_library
def test_one_outlier_does_not_spoil_the_variance() -> None:
    arguments = inputs((1, 32, 40, 40), torch.float32, False, 0.0, 1.0, 1)
    arguments["x"][:, :, 0, 0] = (
        3e4  # the first position: a statistic shifted by the first value would fail here
    )
    truth = exact(arguments, 8, False)
    assert worst(kernel(**arguments, groups=8), truth) <= 2 * worst(
        plain_chain(**arguments, groups=8, silu=False), truth
    )


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silu_over_its_whole_range(isa: str, dtype: torch.dtype) -> None:
    """Through FiLM: normalised values are small, so the gain makes the range."""
    values = torch.linspace(-1, 1, 20001)
    x = values.to(dtype).view(1, 1, -1)
    scale, shift = torch.full((1, 1), 60.0), torch.zeros(1, 1)
    ones, zeros = torch.ones(1), torch.zeros(1)
    y = kernel(
        isa, None, x=x, weight=ones, bias=zeros, groups=1, scale=scale, shift=shift, silu=True
    ).double()
    truth = reference(x.double(), ones, zeros, 1, 1e-5, scale, shift, True)
    assert truth.min() < -0.27 and truth.max() > 100
    error = (y - truth).abs()
    assert (
        float(error.max()) <= {torch.float32: 2e-5, torch.bfloat16: 0.3}[dtype]
    )  # half a unit at 100, and a bit
    # Relatively too, far down the tail: 3e-5 is what rounding an argument near 100 to fp32 does to its exponential.
    relative = (error / truth.abs().clamp(min=1e-30))[values.abs().view(1, 1, -1) > 1e-3]
    assert float(relative.max()) <= {torch.float32: 3e-5, torch.bfloat16: 2.0**-8 + 1.2e-3}[dtype]


@needs_library
@pytest.mark.parametrize("isa", ISAS)
def test_bf16_results_are_rounded_to_nearest_even(isa: str) -> None:
    """With no activation the kernel's fp32 result is known to a few units, so any other rounding would show."""
    arguments = inputs((2, 48, 9, 7), torch.bfloat16, False, 0.0, 1.0, 2)
    y = kernel(**arguments, groups=8, isa=isa)
    truth = exact(arguments, 8, False)
    assert float(((y.double() - truth).abs() / truth.abs()).max()) <= 2.0**-8 * 1.001


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("silu", [False, True])
def test_nan_and_infinity_spoil_their_own_group_only(isa: str, dtype: torch.dtype, silu: bool) -> None:
    for value in (float("nan"), float("inf")):
        arguments = inputs((2, 12, 5, 5), dtype, True, 0.0, 1.0, 3)
        arguments["x"][1, 5, 2, 2] = value  # sample 1, group 1 of 3
        y = kernel(**arguments, groups=3, silu=silu, isa=isa)
        spoiled = torch.zeros(2, 12, 5, 5, dtype=torch.bool)
        spoiled[1, 4:8] = True
        assert torch.equal(y.isnan(), spoiled)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resample", [None, "nearest_x2", "mean_2x2"])
@pytest.mark.parametrize("shape", [(3, 72, 34, 32), (1, 192, 64, 64), (2, 768, 8, 8)])
def test_the_number_of_threads_does_not_change_a_bit(
    shape: tuple[int, ...], resample: str | None, dtype: torch.dtype
) -> None:
    arguments = inputs(shape, dtype, True, 2.3, 0.5, 4)
    arguments["residual"] = arguments["x"].flip(0)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            call = Call(**arguments, groups=8, silu=True, resample=resample, keep_sum=True)
            results.append(group_norm_act_cpu.run(call))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(other, results[0], strict=True))


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [64, 72])
@pytest.mark.parametrize("resample", [None, "nearest_x2"])
def test_a_result_larger_than_the_cache_is_the_same(isa: str, channels: int, resample: str | None) -> None:
    """It is written past the caches where cache lines are written whole (64 channels, not 72); its samples alone are not."""
    samples, side = (40, 96) if resample is None else (20, 64)
    a = inputs((samples, channels, side, side), torch.bfloat16, True, 1.0, 2.0, 9)
    together = kernel(**a, groups=8, silu=True, resample=resample, isa=isa)
    for i in (0, samples // 2, samples - 1):
        one = {
            name: value[i : i + 1] if name in ("x", "scale", "shift") else value for name, value in a.items()
        }
        assert torch.equal(
            together[i : i + 1], kernel(**one, groups=8, silu=True, resample=resample, isa=isa)
        )


@needs_library
def test_a_sample_does_not_depend_on_its_batch() -> None:
    arguments = inputs((3, 48, 17, 13), torch.bfloat16, True, 2.3, 0.5, 5)
    together = kernel(**arguments, groups=8, silu=True)
    for i in range(3):
        one = {name: value[i : i + 1] if value.dim() > 1 else value for name, value in arguments.items()}
        assert torch.equal(kernel(**one, groups=8, silu=True), together[i : i + 1])


@needs_library
def test_a_slice_of_channels_is_read_in_place() -> None:
    whole = inputs((2, 96, 6, 5), torch.float32, False, 0.0, 1.0, 6)["x"]
    part = whole[:, 32:64]
    weight, bias = torch.ones(32), torch.zeros(32)
    assert channel_rows(part) == (96 * 30, 96)
    with force(group_norm_act="cpu"):
        y = group_norm_act(part, weight, bias, groups=4)
    assert worst(y, reference(part.double(), weight, bias, 4)) < 4e-6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.zeros(1, 4, 2, 2)}, "not channels-last"),
        ({"x": torch.zeros(1, 4, 2, 2).half()}, "x is torch.float16"),
        ({"x": torch.zeros(1, 4, 2, 2, device="meta")}, "x is on meta"),
        ({"weight": torch.ones(4).double(), "bias": torch.ones(4).double()}, "weight is torch.float64"),
        ({"bias": torch.ones(4).bfloat16()}, "differ in type"),
        ({"weight": torch.ones(8)[::2]}, "not side by side in memory"),
        ({"weight": torch.ones(4, requires_grad=True)}, "gradients are wanted"),
        ({"x": torch.zeros(0, 4, 2, 2)}, "no elements"),
        ({"residual": torch.zeros(1, 4, 2, 2)}, "not channels-last"),
        ({"x_bias": torch.zeros(4).half()}, "x_bias is torch.float16"),
        ({"x_bias": torch.zeros(8)[::2]}, "not side by side in memory"),
    ],
)
def test_it_declines_with_a_reason(change: dict[str, torch.Tensor], reason: str) -> None:
    x = torch.randn(1, 4, 2, 2).to(memory_format=torch.channels_last)
    arguments = {"x": x, "weight": torch.ones(4), "bias": torch.zeros(4), **change}
    explanation = op.OP.explain(Call(**arguments, groups=2).facts())
    assert reason in str(explanation.verdicts[0].reason)
    with force("cpu"), pytest.raises(BackendError, match=reason):
        group_norm_act(**arguments, groups=2)


def test_without_the_library_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last)
    arguments = {"x": x, "weight": torch.ones(8), "bias": torch.zeros(8)}
    monkeypatch.setattr(native, "why_missing", lambda: "no C++ compiler")
    monkeypatch.setattr(op.OP, "_choices", {})
    explanation = op.OP.explain(Call(**arguments, groups=2).facts())
    assert explanation.verdicts[0].reason == "no C++ compiler"
    assert op.OP.choose(Call(**arguments, groups=2).facts()).name == "reference"


def test_a_library_with_other_arguments_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install keeps its library when the sources change."""
    monkeypatch.setattr(native, "why_missing", lambda: None)
    monkeypatch.setattr(native, "load", lambda: SimpleNamespace(group_norm_act=None))
    monkeypatch.setattr(op.OP, "_choices", {})
    x = torch.randn(1, 4, 2, 2).to(memory_format=torch.channels_last)
    facts = Call(x, torch.ones(4), torch.zeros(4), 2).facts()
    assert "older than the sources" in str(op.OP.explain(facts).verdicts[0].reason)
    assert op.OP.choose(facts).name == "reference"


def test_gradients_are_those_of_the_reference() -> None:
    x = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    y = group_norm_act(x, weight, bias, groups=2, silu=True)
    ours = torch.autograd.grad(y.square().sum(), (x, weight, bias))
    z = reference(x, weight, bias, 2, silu=True)
    theirs = torch.autograd.grad(z.square().sum(), (x, weight, bias))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "groups must divide channels"),
        ({"rows": 0}, "sizes must be positive"),
        ({"dtype": 2}, "a type code is"),
        ({"weight": (1, 5, 0)}, "a type code is"),
        ({"dtype": 1, "out_dtype": 0, "y": (0, 0, 0)}, "x and y must be there"),
        ({"dtype": 0, "out_dtype": 1}, "out_dtype is dtype or fp32"),
        ({"shift": (0, 0, 0)}, "scale and shift come together"),
        ({"channels": 8}, "x2 comes with its channels"),
        ({"sum": (1, 16, 4)}, "something to add"),
        ({"resample": 3}, "resample is 0, 1 or 2"),
        ({"resample": 1, "width": 3}, "width must divide rows"),
        ({"resample": 2, "width": 4}, "even sides"),
        ({"isa": "sse9"}, "unknown instruction set"),
    ],
)
def test_the_module_checks_what_it_is_given(change: dict[str, Any], message: str) -> None:
    memory = torch.zeros(64)
    rows, four, nothing = (memory.data_ptr(), 16, 4), (memory.data_ptr(), 0, 0), (0, 0, 0)
    call: dict[str, Any] = {
        "dtype": 0, "out_dtype": 0, "samples": 1, "rows": 4, "x_channels": 4, "channels": 4, "groups": 2, "width": 2,
        "x": rows, "x2": nothing, "residual": nothing, "sum": nothing, "y": rows, "x_bias": nothing, "weight": four,
        "bias": four, "scale": four, "shift": four, "eps": 1e-5, "silu": False, "resample": 0,
        "windows": False,
    }  # fmt: skip
    assert library is not None
    library.group_norm_act(library.GroupNormAct(**call), threads=1)
    isa = change.get("isa", "")
    call |= {name: value for name, value in change.items() if name != "isa"}
    with pytest.raises(ValueError, match=message):
        library.group_norm_act(library.GroupNormAct(**call), threads=1, isa=isa)
