"""resample: its reference against torch's own resizing in fp64, and the C++ kernel against the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.resample_calls import arguments

from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.ops import native, resample
from glide_fast.ops.backends import force, ops
from glide_fast.ops.resample import cpu as resample_cpu
from glide_fast.ops.resample.arguments import MODES, Call
from glide_fast.ops.resample.reference import reference
from glide_fast.ops.resample.traced import NODE

library = native.load()
needs_library = pytest.mark.skipif(library is None, reason=str(native.why_missing()))
ISAS = [] if library is None else library.isas()
HALF_UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def exact(
    x: torch.Tensor, mode: str, bias: torch.Tensor | None, residual: torch.Tensor | None
) -> torch.Tensor:
    """torch's own resizing, in fp64, of the sum as it is held in x's type."""
    s = x.double()
    if bias is not None:
        s = s + bias.double()[:, None, None]
    if residual is not None:
        s = s + residual.double()
    s = s.to(x.dtype).double()
    return F.interpolate(s, scale_factor=2, mode="nearest") if mode == "nearest_x2" else F.avg_pool2d(s, 2)


shapes = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 2, 3, 8, 17, 48, 67]), st.integers(1, 4), st.integers(1, 5)
)
gaps = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("added", [False, True])
def test_the_reference_is_torchs_resizing(mode: str, dtype: torch.dtype, added: bool) -> None:
    call = arguments((2, 5, 4, 6), dtype, dtype if added else None, added)
    y = reference(mode=mode, **call)
    truth = exact(mode=mode, **call)
    assert y.dtype == dtype and y.shape == truth.shape
    # fp64 sums before rounding may differ from fp32 ones by one rounding of the sum.
    unit = 2 * HALF_UNIT.get(dtype, 2.0**-53)
    assert float(((y.double() - truth) / truth.abs().clamp(min=1)).abs().max()) <= unit
    if mode == "nearest_x2" and not added:
        assert torch.equal(y.double(), truth)


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=60)
@given(
    shape=shapes,
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    bias=st.sampled_from([None, torch.float32, torch.bfloat16]),
    residual=st.booleans(),
    gaps=gaps,
    seed=st.integers(0, 2**32 - 1),
)
def test_the_kernel_is_the_reference_bit_for_bit(
    isa: str,
    shape: tuple[int, int, int, int],
    mode: str,
    dtype: torch.dtype,
    bias: torch.dtype | None,
    residual: bool,
    gaps: tuple[int, int, int],
    seed: int,
) -> None:
    n, c, height, width = shape
    shape = shape if mode == "nearest_x2" else (n, c, 2 * height, 2 * width)
    call = arguments(shape, dtype, bias, residual, seed, gaps)
    truth = reference(mode=mode, **call)
    # The output is a window too: its surroundings must survive, and all of it must be written.
    rows, columns = truth.shape[2:]
    arena = torch.full((n, rows + 2, columns + 3, c + 4), 7.0, dtype=dtype)
    out = arena[:, 1:-1, 1:-2, 2:-2].permute(0, 3, 1, 2)
    out.fill_(float("nan"))
    resample_cpu.run(Call(mode=mode, **call), out=out, isa=isa)
    assert torch.equal(out, truth)
    out.fill_(7.0)
    assert bool((arena == 7).all()), "something was written outside the output"


@needs_library
@pytest.mark.parametrize("isa", ISAS)
def test_nearest_keeps_every_bit_of_bf16(isa: str) -> None:
    """Subnormal numbers, infinities and the payloads of NaN among them."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16).view(1, 8, 64, 128).to(memory_format=torch.channels_last)
    y = resample_cpu.run(Call(x, "nearest_x2"), isa=isa).view(torch.int16)
    for corner in (y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]):
        assert torch.equal(corner, x.view(torch.int16))


@needs_library
@pytest.mark.parametrize("isa", ISAS)
def test_a_nan_or_infinity_reaches_its_own_pixels_only(isa: str) -> None:
    for value in (float("nan"), float("inf")):
        call = arguments((1, 19, 4, 6), torch.bfloat16, torch.float32, True)
        call["x"][0, 18, 3, 2] = value
        mean = resample_cpu.run(Call(mode="mean_2x2", **call), isa=isa)
        assert (~mean.isfinite()).nonzero().tolist() == [[0, 18, 1, 1]]
        repeated = resample_cpu.run(Call(mode="nearest_x2", **call), isa=isa)
        assert (~repeated.isfinite()).nonzero().tolist() == [[0, 18, r, c] for r in (6, 7) for c in (4, 5)]


@needs_library
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    call = arguments((2, 192, 16, 34), torch.bfloat16, torch.float32, True)
    before = torch.get_num_threads()
    try:
        for mode in MODES:
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(resample_cpu.run(Call(mode=mode, **call)))
            assert all(torch.equal(results[0], other) for other in results[1:])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_library)])
def test_through_the_public_op(backend: str, mode: str) -> None:
    call = arguments((2, 192, 8, 8), torch.bfloat16, torch.float32, True)
    with force(resample=backend):
        y = resample(call.pop("x"), mode, **call)
    assert y.is_contiguous(memory_format=torch.channels_last)
    call = arguments((2, 192, 8, 8), torch.bfloat16, torch.float32, True)
    assert torch.equal(y, reference(mode=mode, **call))


def test_contiguous_pictures_stay_contiguous() -> None:
    x = torch.randn(2, 3, 4, 6)
    for mode in MODES:
        y = resample(x, mode)
        assert y.is_contiguous()
        assert torch.equal(y, resample(x.to(memory_format=torch.channels_last), mode))
    assert resample(x[:0], "nearest_x2").shape == (0, 3, 8, 12)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"mode": "bilinear"}, "mode"),
        ({"x": torch.zeros(4, 2, 2)}, "x"),
        ({"x": torch.zeros(1, 4, 2, 2, dtype=torch.int32)}, "x"),
        ({"x": torch.zeros(1, 4, 0, 2)}, "x"),
        ({"x": torch.zeros(1, 4, 3, 2), "residual": None}, "x"),
        ({"x": torch.zeros(1, 4, 2, 3), "residual": None}, "x"),
        ({"bias": torch.zeros(3)}, "bias"),
        ({"bias": torch.zeros(4, 1)}, "bias"),
        ({"residual": torch.zeros(1, 4, 2, 1)}, "residual"),
        ({"residual": torch.zeros(1, 4, 2, 2).half()}, "residual"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], argument: str) -> None:
    call = {"mode": "mean_2x2", "bias": torch.zeros(4), "residual": torch.zeros(1, 4, 2, 2)}
    call |= {"x": torch.zeros(1, 4, 2, 2), **change}
    with pytest.raises(InvalidInputError, match=f"^{argument}: got"):
        resample(**call)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.zeros(1, 4, 2, 2)}, "not channels-last"),
        ({"residual": torch.zeros(1, 4, 2, 2)}, "not channels-last"),
        ({"x": torch.zeros(1, 4, 2, 2).half(), "residual": None}, "x is torch.float16"),
        ({"bias": torch.zeros(4).double()}, "bias is torch.float64"),
        ({"bias": torch.zeros(8)[::2]}, "not side by side in memory"),
        ({"bias": torch.zeros(4, device="meta")}, "not on x's device"),
        ({"bias": torch.zeros(4, requires_grad=True)}, "gradients are wanted"),
        ({"x": torch.zeros(1, 4, 2, 2, device="meta"), "residual": None, "bias": None}, "x is on meta"),
        ({"x": torch.zeros(0, 4, 2, 2), "residual": None}, "no elements"),
    ],
)
def test_the_kernel_declines_with_a_reason(change: dict[str, Any], reason: str) -> None:
    whole = torch.zeros(1, 4, 2, 2).to(memory_format=torch.channels_last)
    call = {"x": whole, "bias": torch.zeros(4), "residual": whole, **change}
    assert reason in str(ops()["resample"].explain(Call(mode="mean_2x2", **call).facts()).verdicts[0].reason)
    with force("cpu"), pytest.raises(BackendError, match=reason):
        resample(mode="mean_2x2", **call)


@needs_library
@pytest.mark.parametrize(
    "change",
    [
        {"sizes": (1, 3, 2, 4)},
        {"sizes": (1, 2, 2, 0)},
        {"dtype": 2},
        {"bias_dtype": 3},
        {"y": 0},
        {"isa": "sse9"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_module_checks_what_it_is_given(change: dict[str, Any]) -> None:
    address = (buffer := torch.zeros(64)).data_ptr()
    call: dict[str, Any] = {
        "x": address, "y": address + 128, "residual": 0, "dtype": 0, "bias": address, "bias_dtype": 0, "up": False,
        "sizes": (1, 2, 2, 4), "x_strides": (16, 8, 4), "y_strides": (4, 4, 4), "residual_strides": (0, 0, 0), "threads": 1,
    }  # fmt: skip
    assert library is not None
    library.resample(**call)
    with pytest.raises(ValueError, match=r"resample:|instruction set"):
        library.resample(**{**call, **change})
    assert not buffer.any()


def custom_call(mode: str, channels_last: bool, added: bool, gradients: bool) -> list[Any]:
    call = arguments((2, 3, 4, 6), torch.float32, torch.float32 if added else None, added)
    tensors = [call["x"], call["bias"], call["residual"]]
    if not channels_last:
        tensors = [t if t is None else t.contiguous() for t in tensors]
    if gradients:
        tensors = [t if t is None else t.detach().clone().requires_grad_() for t in tensors]
    return [tensors[0], mode, *tensors[1:]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_custom_op_keeps_its_promises(
    mode: str, channels_last: bool, added: bool, gradients: bool
) -> None:
    torch.library.opcheck(NODE.operator, tuple(custom_call(mode, channels_last, added, gradients)))


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 4, 2, 2), (2, 1, 2, 6)])
def test_the_custom_op_lays_out_what_its_fake_says(shape: tuple[int, ...]) -> None:
    for mode in MODES:
        for order in (torch.contiguous_format, torch.channels_last):
            torch.library.opcheck(
                NODE.operator, (torch.randn(shape).to(memory_format=order), mode, None, None)
            )


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_the_reference(mode: str) -> None:
    x, _, bias, residual = call = custom_call(mode, True, True, True)
    weights = torch.randn(reference(x, mode).shape, generator=torch.Generator().manual_seed(1))

    def gradients(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((y * weights).sum(), (x, bias, residual))

    theirs = gradients(reference(x, mode, bias=bias, residual=residual))
    compiled = torch.compile(lambda *a: NODE.operator(*a), backend="aot_eager", fullgraph=True)
    for y in (resample(x, mode, bias=bias, residual=residual), NODE.operator(*call), compiled(*call)):
        for a, b in zip(gradients(y), theirs, strict=True):
            torch.testing.assert_close(a, b)
