"""group_norm_act's C++ kernel against fp64, and against the plain torch chain of the same precision."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glide_fast.errors import BackendError
from glide_fast.ops import group_norm_act, group_norm_act_cpu, native
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act_call import Call, Result
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


def kernel(isa: str = "", out: torch.Tensor | None = None, **arguments: Any) -> torch.Tensor:
    """The C++ kernel's result."""
    return group_norm_act_cpu.run(
        Call(**arguments), out=None if out is None else Result(out, None), isa=isa
    ).y


def exact(arguments: dict[str, Any], groups: int, silu: bool) -> torch.Tensor:
    """The op in fp64, on the values that the kernel is given."""
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
    """What eager torch does in the precision of ``x``, each operation rounded."""
    y = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype))
    if scale is not None and shift is not None:
        view = (*scale.shape, *([1] * (x.dim() - 2)))
        y = y * (1 + scale.view(view)) + shift.view(view)
    return F.silu(y) if silu else y


def worst(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, relative to the larger of 1 and the value."""
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max())


shapes = st.tuples(
    st.integers(1, 3),
    st.tuples(
        st.sampled_from([1, 2, 4, 32]), st.sampled_from([1, 2, 3, 5, 6, 12])
    ),  # groups, channels in a group
    st.one_of(
        st.tuples(st.integers(1, 300)),
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    ),
)


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40)
@given(
    shape=shapes,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    film=st.booleans(),
    silu=st.booleans(),
    spread=st.sampled_from([(0.0, 1.0), (2.3, 0.5), (100.0, 0.5), (-1e4, 30.0)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_error_is_at_most_twice_that_of_plain_torch(
    isa: str,
    shape: tuple[int, tuple[int, int], tuple[int, ...]],
    dtype: torch.dtype,
    film: bool,
    silu: bool,
    spread: tuple[float, float],
    seed: int,
) -> None:
    n, (groups, width), positions = shape
    assume(n * width * math.prod(positions) > 1)  # torch's own group norm refuses a single value
    arguments = inputs((n, groups * width, *positions), dtype, film, *spread, seed)
    poisoned = torch.full_like(arguments["x"], float("nan"))
    kernel(**arguments, groups=groups, silu=silu, out=poisoned, isa=isa)
    truth = exact(arguments, groups, silu)
    allowed = 2 * worst(plain_chain(**arguments, groups=groups, silu=silu), truth)
    # Where the chain happens to be lucky, a few roundings of intermediates that are larger than the result still pass.
    assert worst(poisoned, truth) <= max(
        allowed, {torch.float32: 10, torch.bfloat16: 1.2}[dtype] * HALF_UNIT[dtype]
    )


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
    truth = op.reference(x.double(), ones, zeros, 1, 1e-5, scale, shift, True)
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
@pytest.mark.parametrize("shape", [(3, 72, 33, 31), (1, 192, 64, 64), (2, 768, 8, 8)])
def test_the_number_of_threads_does_not_change_a_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    arguments = inputs(shape, dtype, True, 2.3, 0.5, 4)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(kernel(**arguments, groups=8, silu=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


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
    assert worst(y, op.reference(part.double(), weight, bias, 4)) < 4e-6


@needs_library
def test_nothing_is_written_outside_the_output() -> None:
    """Odd channel counts end in partial vectors; the canaries around the output must survive them."""
    for dtype in (torch.float32, torch.bfloat16):
        for isa in ISAS:
            arguments = inputs((1, 21, 3, 3), dtype, False, 0.0, 1.0, 7)
            arena = torch.full((64 + 9 * 21 + 64,), 7.0, dtype=dtype)
            out = arena[64 : 64 + 9 * 21].view(1, 3, 3, 21).movedim(-1, 1)
            kernel(**arguments, groups=7, out=out, isa=isa)
            assert (arena[:64] == 7).all() and (arena[-64:] == 7).all()
            assert worst(out, exact(arguments, 7, False)) <= 4 * HALF_UNIT[dtype]


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


def test_gradients_are_those_of_the_reference() -> None:
    x = torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)
    y = group_norm_act(x, weight, bias, groups=2, silu=True)
    ours = torch.autograd.grad(y.square().sum(), (x, weight, bias))
    z = op.reference(x, weight, bias, 2, silu=True)
    theirs = torch.autograd.grad(z.square().sum(), (x, weight, bias))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@needs_library
@pytest.mark.parametrize(
    "change",
    [{"groups": 3}, {"rows": 0}, {"dtype": 2}, {"shift": 0}, {"isa": "sse9"}],
    ids=lambda change: next(iter(change)),
)
def test_the_module_checks_what_it_is_given(change: dict[str, Any]) -> None:
    buffer = torch.zeros(64)
    address = buffer.data_ptr()
    call: dict[str, Any] = {
        "x": address, "y": address, "dtype": 0, "samples": 1, "rows": 4, "channels": 4, "groups": 2,
        "x_sample_stride": 16, "x_row_stride": 4, "y_sample_stride": 16, "y_row_stride": 4,
        "weight": address, "bias": address, "affine_dtype": 0, "scale": address, "shift": address, "film_dtype": 0,
        "scale_stride": 4, "shift_stride": 4, "eps": 1e-5, "silu": False, "threads": 1,
    }  # fmt: skip
    assert library is not None
    library.group_norm_act(**call)
    with pytest.raises(ValueError, match=r"group_norm_act:|instruction set"):
        library.group_norm_act(**{**call, **change})
