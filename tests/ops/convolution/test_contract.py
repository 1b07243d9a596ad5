"""convolution: every backend that runs here against fp64, which one runs and why, and what it refuses."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.onednn import TYPES, needs_bf16

from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.ops import convolution
from glide_fast.ops.backends import force
from glide_fast.ops.convolution import cudnn, packed_weight
from glide_fast.ops.convolution import narrow as narrow_convolution
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.reference import reference

op = importlib.import_module("glide_fast.ops.convolution")
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def operands(
    n: int = 2,
    channels: int = 16,
    outputs: int = 32,
    size: tuple[int, int] = (8, 7),
    kernel: int = 3,
    stride: int = 1,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    channels_last: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, weight, bias and residual."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        value = torch.randn(*shape, generator=generator)
        if len(shape) == 4 and channels_last:
            value = value.to(memory_format=torch.channels_last)
        return value.to(dtype)

    weight = normal(outputs, channels, kernel, kernel) * (channels * kernel**2) ** -0.5
    after = [(s + 2 * (kernel // 2) - kernel) // stride + 1 for s in size]
    return normal(n, channels, *size), weight, normal(outputs), normal(n, outputs, *after)


def chosen(*call: Any, **options: Any) -> str:
    return op.OP.choose(Call(*call, **options).facts()).name


def reasons(*call: Any, **options: Any) -> dict[str, str | None]:
    return {v.backend: v.reason for v in op.OP.explain(Call(*call, **options).facts()).verdicts}


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    assert got.shape == truth.shape
    return float((got.double() - truth).norm() / truth.norm())


@settings(max_examples=60)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    backend=st.sampled_from(["onednn", "reference"]),
    packed=st.booleans(),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(
    1, 1, 1, (4, 2), 3, 2, torch.bfloat16, "onednn", False, False, False, 0
)  # one column: oneDNN is wrong
@example(2, 192, 6, (8, 8), 3, 1, torch.bfloat16, "onednn", True, True, False, 0)
@example(1, 3, 192, (16, 16), 3, 1, torch.bfloat16, "onednn", True, True, False, 0)
@example(2, 96, 64, (8, 8), 1, 1, torch.bfloat16, "onednn", True, True, True, 0)
@example(2, 64, 96, (9, 7), 3, 2, torch.float32, "onednn", True, True, True, 0)
def test_it_errs_at_most_twice_as_much_as_plain_torch(
    n: int,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    dtype: torch.dtype,
    backend: str,
    packed: bool,
    with_bias: bool,
    with_residual: bool,
    seed: int,
) -> None:
    x, weight, bias, residual = operands(n, channels, outputs, size, kernel, stride, dtype, seed)
    b, r = bias if with_bias else None, residual if with_residual else None
    padding = (kernel // 2, kernel // 2)
    wide = [None if t is None else t.double() for t in (x, weight, b, r)]
    truth = reference(*wide, (stride, stride), padding)
    if narrow_convolution.why_wrong("cpu", dtype, stride, truth.shape[-1]) is None:
        plain = F.conv2d(x, weight, b, stride, padding)
        plain = plain if r is None else plain + r
    else:  # plain torch is no measure here, and its kernel declines
        plain = truth.to(dtype)
        if backend == "onednn" and dtype in TYPES:
            with force(convolution="onednn"), pytest.raises(BackendError, match="wrong values"):
                convolution(x, weight, b, residual=r, stride=stride)
        backend = "reference"
    if dtype not in TYPES:
        backend = "reference"
    pack = packed and dtype in TYPES
    given_weight = PackedWeight.pack(weight, input_shape=x.shape, stride=stride) if pack else weight
    with force(convolution=backend):
        result = convolution(x, given_weight, b, residual=r, stride=stride)
        again = convolution(x, given_weight, b, residual=r, stride=stride)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    # Where one sum is all there is, its terms may cancel; fp32 sums are then known to their terms' size.
    terms = F.conv2d(x.double().abs(), weight.double().abs(), None, stride, padding).norm() / truth.norm()
    floor = 2 * UNIT[dtype] + 4 * UNIT[torch.float32] * float(terms)
    assert error(result, truth) <= max(2 * error(plain, truth), floor)
    assert torch.equal(result, again)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("input_shape", "stride", "padding"),
    [((1, 16, 8, 7), 1, 1), ((2, 16, 64, 64), 1, 1), ((2, 16, 8, 7), 2, 1), ((2, 16, 8, 7), 1, 0)],
)
def test_a_weight_packed_for_another_convolution_serves_as_well(
    dtype: torch.dtype, input_shape: tuple[int, ...], stride: int, padding: int
) -> None:
    x, weight, bias, residual = operands(3, dtype=dtype)
    packed = PackedWeight.pack(weight, input_shape=input_shape, stride=stride, padding=padding)
    wide = [t.double() for t in (x, weight, bias, residual)]
    truth = reference(*wide, (1, 1), (1, 1))
    assert error(convolution(x, packed, bias, residual=residual), truth) <= 2 * UNIT[dtype]


@pytest.mark.parametrize(("side", "other"), [(8, 32), (32, 8)])
def test_for_another_size_a_weight_is_packed_anew_once(side: int, other: int) -> None:
    """oneDNN reads the layout that it chose for another size up to 200 times more slowly."""
    describe = torch.ops.mkldnn._get_mkldnn_serialized_md
    _, weight, bias, _ = operands(channels=384, outputs=384, dtype=TYPES[-1])
    x = operands(channels=384, size=(other, other), dtype=TYPES[-1])[0]
    packed = PackedWeight.pack(weight, input_shape=(2, 384, side, side))
    fresh = PackedWeight.pack(weight, input_shape=x.shape)
    assert not torch.equal(describe(packed.packed), describe(fresh.packed))
    for call in (x, x, x[:1]):
        assert torch.equal(convolution(call, packed, bias), convolution(call, fresh, bias))
        assert torch.equal(describe(packed.packed), describe(fresh.packed))
        assert packed.version == 1 and packed.geometry == fresh.geometry
    assert torch.equal(packed.dense(), weight)
    packed.mul_(2)
    assert torch.equal(convolution(x, packed), convolution(x, weight * 2))


@pytest.mark.parametrize("backend", ["onednn", "reference"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(32, 16, 1, 1), (32, 16, 1), (32, 16)])
def test_a_projection_is_a_1x1_convolution(backend: str, packed: bool, shape: tuple[int, ...]) -> None:
    x, weight, bias, residual = operands(kernel=1)
    truth = reference(*(t.double() for t in (x, weight, bias, residual)), (1, 1), (0, 0))
    flat = weight.reshape(shape)
    with force(convolution=backend):
        result = convolution(
            x, PackedWeight.pack(flat, input_shape=x.shape) if packed else flat, bias, residual=residual
        )
    assert error(result, truth) <= 2**-22


@pytest.mark.parametrize("backend", [pytest.param("onednn", marks=needs_bf16), "reference"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_a_bias_may_be_in_fp32(backend: str, with_residual: bool) -> None:
    x, weight, bias, residual = operands(dtype=torch.bfloat16)
    r = residual if with_residual else None
    bias = torch.randn(32, generator=torch.Generator().manual_seed(1))
    truth = reference(
        x.double(), weight.double(), bias.double(), None if r is None else r.double(), (1, 1), (1, 1)
    )
    with force(convolution=backend):
        assert error(convolution(x, weight, bias, residual=r), truth) <= 2**-8


def test_unequal_strides_and_paddings_are_vertical_then_horizontal() -> None:
    x, weight, bias, _ = operands(size=(9, 12))
    truth = F.conv2d(x.double(), weight.double(), bias.double(), (2, 1), (0, 2))
    packed = PackedWeight.pack(weight, input_shape=x.shape, stride=(2, 1), padding=(0, 2))
    for w in (weight, packed):
        assert error(convolution(x, w, bias, stride=(2, 1), padding=(0, 2)), truth) <= 2**-22


def test_packed_weights_write_no_operand() -> None:
    x, weight, bias, residual = operands(dtype=TYPES[-1])
    before = [t.clone() for t in (x, weight, bias, residual)]
    packed = PackedWeight.pack(weight, input_shape=x.shape)
    convolution(x, packed, bias, residual=residual)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, packed.dense(), bias, residual), strict=True))
    assert packed.version == 0


def test_which_backend_runs() -> None:
    x, weight, bias, residual = operands()
    assert op.OP.names[:2] == ("winograd", "onednn") and op.OP.names[-1] == "reference"
    packed = PackedWeight.pack(weight, input_shape=x.shape)
    for w in (weight, packed):
        assert chosen(x, w, bias, residual) == "onednn"
        assert chosen(x.contiguous(), w, bias, residual) == "reference"
        assert chosen(x, w, bias, residual.contiguous()) == "reference"
    assert Call(x, packed).facts().packed and not Call(x, weight).facts().packed
    assert chosen(x.double(), weight.double()) == "reference"
    assert "on cpu, not on a CUDA device" in str(reasons(x, weight)["cudnn"])


def test_onednn_declines_with_a_reason() -> None:
    x, weight, bias, _ = operands()
    half = [t.half() for t in (x, weight)]
    for call, reason in (
        (half, "float16 convolutions on a CPU are hundreds of times slower"),
        ([x.double(), weight.double()], "oneDNN takes float32 and bfloat16"),
        ([x.requires_grad_(), weight], "gradients are wanted"),
        ([x.detach().contiguous(), weight], "x or residual is not channels-last"),
        ([x.detach(), weight, bias.to("meta")], "on different devices"),
        ([x.detach()[:0], weight], "x holds no elements"),
        ([x.detach().to("meta"), weight.to("meta")], "on meta, not on the CPU"),
    ):
        assert reason in str(reasons(*call)["onednn"])
    with pytest.raises(BackendError, match="is forced but cannot run: onednn: float16"), force("onednn"):
        convolution(*half)


@pytest.mark.parametrize("missing", ["onednn", "processor", "bfloat16"])
def test_without_onednn_plain_weights_work(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    caches = (packed_weight.why_missing, packed_weight._no_bfloat16)
    x, weight, bias, residual = operands(dtype=torch.bfloat16)
    monkeypatch.setattr(op.OP, "_choices", {})
    for cache in caches:
        cache.cache_clear()
    with monkeypatch.context() as patch:
        if missing == "onednn":
            patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        elif missing == "processor":
            patch.setattr(packed_weight.platform, "machine", lambda: "aarch64")
        else:
            patch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        reason = str(reasons(x, weight)["onednn"])
        said = {"onednn": "without oneDNN", "processor": "never run on a aarch64", "bfloat16": "AVX-512"}
        assert said[missing] in reason
        with pytest.raises(BackendError, match="cannot be packed for oneDNN"):
            PackedWeight.pack(weight, input_shape=x.shape)
        result = convolution(x, weight, bias, residual=residual)
    for cache in caches:
        cache.cache_clear()
    truth = reference(*(t.double() for t in (x, weight, bias, residual)), (1, 1), (1, 1))
    assert error(result, truth) <= 2**-8


def test_fp16_on_a_cpu_is_summed_in_fp32_by_the_reference() -> None:
    x, weight, bias, residual = operands(dtype=torch.float16)
    truth = reference(*(t.double() for t in (x, weight, bias, residual)), (1, 1), (1, 1))
    result = convolution(x, weight, bias, residual=residual)
    assert result.dtype == torch.float16 and error(result, truth) <= 2**-11


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_are_those_of_torch(packed: bool) -> None:
    x, weight, bias, residual = (t.double() for t in operands())
    if packed:
        x, bias, residual = x.float(), bias.float(), residual.float()
        leaf: torch.Tensor = torch.nn.Parameter(PackedWeight.pack(weight.float(), input_shape=x.shape))
    else:
        leaf = weight.clone().requires_grad_()
    inputs = [t.clone().requires_grad_() for t in (x, bias, residual)]
    y = convolution(inputs[0], leaf, inputs[1], residual=inputs[2])
    ours = torch.autograd.grad(y.square().sum(), [*inputs, leaf])
    plain = [t.clone().requires_grad_() for t in (x, bias, residual, weight.to(x.dtype))]
    y = F.conv2d(plain[0], plain[3], plain[1], padding=1) + plain[2]
    theirs = torch.autograd.grad(y.square().sum(), plain)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        assert chosen(inputs[0].float(), leaf.float()) == "onednn"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x": torch.zeros(2, 16, 8)}, "x"),
        ({"x": torch.zeros(2, 17, 8, 7)}, "weight"),
        ({"x": torch.zeros(2, 16, 8, 7).double()}, "x, weight"),
        ({"x": torch.zeros(2, 16, 8, 7).long(), "weight": torch.zeros(32, 16, 3, 3).long()}, "x, weight"),
        ({"weight": torch.zeros(32, 16, 3)}, "weight"),
        ({"weight": torch.zeros(0, 16, 3, 3)}, "weight"),
        ({"weight": torch.zeros(32, 16, 9, 9), "padding": 0}, "x"),
        ({"bias": torch.zeros(31)}, "bias"),
        ({"bias": torch.zeros(32).half()}, "bias"),
        ({"residual": torch.zeros(2, 32, 8, 8)}, "residual"),
        ({"residual": torch.zeros(2, 32, 8, 7).bfloat16()}, "residual"),
        ({"stride": 0}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"padding": -1}, "padding"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], name: str) -> None:
    x, weight, bias, residual = operands()
    call = {"x": x, "weight": weight, "bias": bias, "residual": residual} | change
    with pytest.raises(InvalidInputError, match=f"^{name}: got .*; accepted: "):
        convolution(call.pop("x"), call.pop("weight"), call.pop("bias"), **call)


def test_what_cudnn_runs_is_right_up_to_its_roundings() -> None:
    x, weight, _, residual = operands(dtype=torch.bfloat16)
    bias = torch.randn(32, generator=torch.Generator().manual_seed(1))
    truth = reference(*(t.double() for t in (x, weight, bias, residual)), (1, 1), (1, 1))
    assert error(cudnn.run(Call(x, weight, bias, residual)), truth) <= 2 * 2**-8
    facts = Call(x, weight, bias, residual).facts()._replace(device="cuda")
    assert cudnn.supports(facts) is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_on_a_device_cudnn_runs(dtype: torch.dtype, channels_last: bool) -> None:
    call = operands(dtype=dtype, channels_last=channels_last)
    x, weight, bias, residual = (t.cuda() for t in call)
    assert chosen(x, weight, bias, residual) == "cudnn"
    truth = reference(*(t.double() for t in call), (1, 1), (1, 1))
    result = convolution(x, weight, bias, residual=residual)
    assert result.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert error(result.cpu(), truth) <= 3 * UNIT[dtype]
