"""Winograd's kernel as a backend of convolution: against fp64, for every instruction set here, and the weights it reads."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.onednn import TYPES
from support.small_unets import SIZE, call_arguments, states, tiny_model
from torch import nn

from glide_fast.errors import BackendError
from glide_fast.ops import convolution, native
from glide_fast.ops.backends import force
from glide_fast.ops.convolution import winograd as convolution_winograd
from glide_fast.ops.convolution import winograd_weight
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.reference import reference
from glide_fast.runtime import accelerate

op = importlib.import_module("glide_fast.ops.convolution")
library = native.load()
ISAS = [] if library is None else library.isas()
UNIT = 2.0**-8

pytestmark = pytest.mark.skipif(
    library is None, reason="the kernels for CPUs are not built: glide_fast._C is missing"
)


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out is full of NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def operands(
    n: int, channels: int, outputs: int, size: tuple[int, int], seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """x, weight, fp32 bias and residual."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).bfloat16()

    def pixels(*shape: int) -> torch.Tensor:
        return normal(*shape).to(memory_format=torch.channels_last)

    weight = (normal(outputs, channels, 3, 3) * (9 * channels) ** -0.5).bfloat16()
    return pixels(n, channels, *size), weight, normal(outputs).float(), pixels(n, outputs, *size)


def tiled(weight: torch.Tensor, x: torch.Tensor) -> PackedWeight:
    packed = PackedWeight.pack(weight, input_shape=x.shape, tile=True)
    assert packed.tiles is not None
    return packed


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    return float((got.double() - truth).norm() / truth.norm())


@settings(max_examples=60)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 5).map(lambda k: 32 * k),
    outputs=st.integers(1, 8).map(lambda k: 16 * k),
    height=st.integers(1, 11),
    pairs=st.integers(4, 12),
    bias_type=st.sampled_from([None, torch.float32, torch.bfloat16]),
    with_residual=st.booleans(),
    count=st.integers(1, 5),
    isa=st.sampled_from(ISAS or [""]),
    seed=st.integers(0, 1000),
)
@example(2, 64, 64, 16, 8, torch.bfloat16, True, 2, (ISAS or [""])[0], 0)
@example(1, 32, 16, 70, 33, None, False, 1, (ISAS or [""])[0], 0)  # several strips, the last one shorter
@example(1, 32, 16, 1, 1030, None, False, 1, (ISAS or [""])[0], 0)  # a row longer than a strip
@example(9, 32, 112, 16, 8, None, True, 1, (ISAS or [""])[0], 0)  # several strips of whole pictures
def test_it_errs_at_most_twice_as_much_as_plain_torch(
    n: int,
    channels: int,
    outputs: int,
    height: int,
    pairs: int,
    bias_type: torch.dtype | None,
    with_residual: bool,
    count: int,
    isa: str,
    seed: int,
) -> None:
    x, weight, bias, residual = operands(n, channels, outputs, (height, 2 * pairs), seed)
    b = None if bias_type is None else bias.to(bias_type)
    r = residual if with_residual else None
    wide = [None if t is None else t.double() for t in (x, weight, b, r)]
    truth = reference(*wide, (1, 1), (1, 1))
    plain = F.conv2d(x, weight, None if b is None else b.bfloat16(), padding=1)
    plain = plain if r is None else plain + r
    packed = tiled(weight, x)
    with poisoned(), threads(count):
        result = convolution_winograd.run(Call(x, packed, b, r), isa=isa)
    with threads(1):
        alone = convolution_winograd.run(Call(x, packed, b, r), isa=isa)
    assert result.dtype == x.dtype and result.is_contiguous(memory_format=torch.channels_last)
    # Of few values a plain result may happen to be nearly exact.
    few = 0.0 if result.numel() >= 4096 else UNIT
    assert error(result, truth) <= max(2 * error(plain, truth), few)
    assert torch.equal(result, alone)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", [lambda x: x, F.silu])
def test_of_many_values_it_errs_at_most_twice_as_much(activation: object, isa: str) -> None:
    assert callable(activation)
    x, weight, *_ = operands(2, 96, 96, (16, 16))
    x = activation(x)
    truth = F.conv2d(x.double(), weight.double(), padding=1)
    plain = error(F.conv2d(x, weight, padding=1), truth)
    result = convolution_winograd.run(Call(x, tiled(weight, x)), isa=isa)
    assert error(result, truth) <= 1.95 * plain


@pytest.mark.parametrize(("mean", "factor"), [(1, 2.5), (8, 14)])
def test_a_mean_that_the_kernel_cancels_costs_what_is_said(mean: int, factor: float) -> None:
    x, weight, *_ = operands(2, 64, 64, (16, 16))
    x = x + mean
    weight = (weight.float() - weight.float().mean((1, 2, 3), keepdim=True)).bfloat16()
    inner = (..., slice(1, -1), slice(1, -1))
    truth = F.conv2d(x.double(), weight.double(), padding=1)[inner]
    plain = error(F.conv2d(x, weight, padding=1)[inner], truth)
    result = convolution_winograd.run(Call(x, tiled(weight, x)))
    assert plain < error(result[inner], truth) <= factor * plain


def test_other_default_devices_and_strides() -> None:
    x, weight, *_ = operands(1, 32, 32, (4, 8))
    want = convolution_winograd.run(Call(x, tiled(weight, x)))
    flat = torch.cat([weight.new_zeros(1), weight.permute(0, 2, 3, 1).flatten()])
    odd = flat[1:].view(32, 3, 3, 32).permute(0, 3, 1, 2)
    assert odd.storage_offset() == 1 and odd.is_contiguous(memory_format=torch.channels_last)
    packed = tiled(odd, x)
    with torch.device("meta"):
        got = convolution_winograd.run(Call(x, packed))
        assert torch.equal(packed.dense(), weight)
    assert torch.equal(got, want)


def test_a_pixel_reaches_its_neighbours_only() -> None:
    x, weight, *_ = operands(1, 32, 48, (6, 8))
    spoilt = x.clone()
    spoilt[0, :, 3, 4] = torch.inf
    packed = tiled(weight, x)
    clean, reached = (convolution_winograd.run(Call(p, packed)) for p in (x, spoilt))
    same = (clean == reached).all(1)[0]
    expected = torch.ones(6, 8, dtype=torch.bool)
    # A pair of pixels is computed from the four that either of them may see.
    expected[2:5, 2:8] = False
    assert torch.equal(same | ~expected, torch.ones_like(same)) and not same[2:5, 4].any()


@given(
    outputs=st.integers(1, 20).map(lambda k: 16 * k),
    channels=st.integers(1, 3).map(lambda k: 32 * k),
    seed=st.integers(0, 100),
)
def test_tiles_hold_each_value_once(outputs: int, channels: int, seed: int) -> None:
    weight = torch.randn(outputs, channels, 3, 3, generator=torch.Generator().manual_seed(seed)).bfloat16()
    tiles = winograd_weight.tiled(weight)
    assert tiles.shape == (weight.numel(),) and tiles.is_contiguous()
    assert torch.equal(winograd_weight.untiled(tiles, weight.shape), weight)
    assert sum(last - first for first, last in winograd_weight.blocks(outputs)) == outputs


def chosen(*call: object, **options: object) -> str:
    return op.OP.choose(Call(*call, **options).facts()).name


@pytest.fixture(params=[True, False], ids=["as-if-faster", "as-if-slower"])
def faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both answers to whether the kernel is faster than oneDNN, whichever is true of this processor."""
    reason = None if request.param else "oneDNN is faster"
    monkeypatch.setattr(winograd_weight, "why_not_worth", lambda: reason)
    monkeypatch.setattr(op.OP, "_choices", {})
    return bool(request.param)


def test_which_weights_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, residual = operands(2, 32, 32, (8, 8))
    packed = tiled(weight, x)
    monkeypatch.setattr(winograd_weight, "why_not_worth", lambda: None)
    monkeypatch.setattr(op.OP, "_choices", {})
    assert chosen(x, packed, bias, residual) == "winograd"
    assert chosen(x[:1], packed) == "winograd"  # any number of pictures
    if torch.bfloat16 in TYPES:
        assert chosen(x, PackedWeight.pack(weight, input_shape=x.shape)) == "onednn"
    for reason, call, stride in (
        ("pictures are 7 wide", (x[..., :7].contiguous(memory_format=torch.channels_last), packed), 1),
        ("pictures are 6 wide", (x[..., :6].contiguous(memory_format=torch.channels_last), packed), 1),
        ("not channels-last", (x.contiguous(), packed), 1),
        ("not in the kernel's layout", (x, weight), 1),
        ("x holds no elements", (x[:0], packed), 1),
        ("stride (2, 2)", (x, packed), 2),
        ("the tensors are torch.float32", (x.float(), weight.float()), 1),
    ):
        verdicts = {v.backend: v.reason for v in op.OP.explain(Call(*call, stride=stride).facts()).verdicts}
        assert reason in str(verdicts["winograd"])
    for other, width in (
        (weight.float(), 8),
        *((weight[:, :31], 8), (weight[:24], 8), (weight[:, :, :1, :1], 8), (weight, 6)),
    ):
        if other.dtype in TYPES:
            shape = (2, other.shape[1], 8, width)
            assert PackedWeight.pack(other, input_shape=shape, tile=True).tiles is None
        else:
            with pytest.raises(BackendError, match="cannot be packed for oneDNN"):
                PackedWeight.pack(other, input_shape=(2, other.shape[1], 8, width), tile=True)


@pytest.mark.parametrize(("size", "stride"), [((8, 7), 1), ((6, 6), 1), ((8, 8), 2)])
def test_for_a_convolution_that_it_does_not_take_a_weight_is_packed_anew_once(
    size: tuple[int, int], stride: int
) -> None:
    x, weight, bias, _ = operands(2, 32, 32, (8, 8))
    small = operands(2, 32, 32, size)[0]
    packed = tiled(weight, x)
    by_onednn = torch.bfloat16 in TYPES
    other = weight
    if by_onednn:
        other = PackedWeight.pack(weight, input_shape=small.shape, stride=stride)
    want = convolution(small, other, bias, stride=stride)
    for _ in range(2):
        assert torch.equal(convolution(small, packed, bias, stride=stride), want)
        if by_onednn:  # else nobody wants another layout
            assert packed.tiles is None and packed.packed is not None and packed.version == 1
    assert torch.equal(packed.dense(), weight)
    truth = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert error(convolution(x, packed, bias), truth) <= UNIT
    packed = tiled(weight, x)
    with force(convolution="onednn" if by_onednn else "reference"):
        assert error(convolution(x, packed, bias), truth) <= UNIT
    assert packed.tiles is not None  # forcing another backend is no reason


def test_where_it_is_not_worth_it_a_model_holds_no_weight_in_its_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And where somebody holds one so it runs: every other backend would unpack the weight at each call."""
    x, weight, *_ = operands(1, 32, 16, (4, 8))
    packed = tiled(weight, x)
    monkeypatch.setattr(winograd_weight, "why_not_worth", lambda: "oneDNN has tiles")
    monkeypatch.setattr(op.OP, "_choices", {})
    assert chosen(x, packed) == "winograd"
    assert torch.equal(convolution(x, packed), convolution_winograd.run(Call(x, packed)))
    plain = {
        layer.weight.tiles
        for layer in accelerate(tiny_model("base", num_channels=32), dtype="bf16", image_size=SIZE).modules()
        if isinstance(getattr(layer, "weight", None), PackedWeight)
    }
    assert plain == {None}


def test_an_accelerated_model_is_right_with_either(faster: bool) -> None:
    """Its convolutions are packed for the faster of the two; both give what the plain model does."""
    model, arguments = tiny_model("base", num_channels=32), call_arguments("base")
    times = torch.tensor([3, 700])
    plain = copy.deepcopy(model)
    plain.convert_to(torch.bfloat16)
    fast = accelerate(model, dtype="bf16", image_size=SIZE)
    ours = [p for p in fast.parameters() if isinstance(p, PackedWeight) and p.tiles is not None]
    assert bool(ours) == (faster and torch.bfloat16 in TYPES)
    with torch.no_grad():
        want, own, got = (m(states(), times, **arguments) for m in (model, plain, fast))
    assert error(got, want.double()) <= 1.2 * error(own, want.double())


def test_an_older_library_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_weight.native, "load", lambda: type("Library", (), {}))
    assert "install glide_fast again" in str(winograd_weight._why_missing.__wrapped__())


def test_processors_that_it_is_slower_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = importlib.util.module_from_spec(
        importlib.util.find_spec("glide_fast.ops.convolution.winograd_weight")
    )
    fresh.__spec__.loader.exec_module(fresh)
    monkeypatch.setattr(fresh.native, "load", lambda: type("Library", (), {"isas": lambda: ["avx512_bf16"]}))
    for features, said in (([], "None"), (["AMX BF16"], "AMX tiles")):
        monkeypatch.setattr(fresh, "features", lambda features=features: features)
        assert said in str(fresh.why_not_worth.__wrapped__())
    monkeypatch.setattr(fresh.native, "load", lambda: type("Library", (), {"isas": lambda: ["avx2"]}))
    assert "no AVX-512 BF16" in str(fresh.why_not_worth.__wrapped__())


def test_a_weight_in_tiles_is_written_and_copied_as_any_other(faster: bool) -> None:
    x, weight, *_ = operands(1, 64, 32, (4, 10))
    parameter = nn.Parameter(tiled(weight, x), requires_grad=False)
    assert "in tiles" in repr(parameter.data) and torch.equal(parameter.data.dense(), weight)
    for change in (lambda w: w.mul_(2), lambda w: w[3].zero_(), lambda w: w.data.copy_(weight.flip(0))):
        mirror = parameter.data.dense()
        version = parameter.version
        change(parameter)
        change(mirror)
        assert parameter.version > version and torch.equal(parameter.data.dense(), mirror)
        want = convolution_winograd.run(Call(x, tiled(mirror, x)))
        with force(convolution="winograd"):
            assert torch.equal(convolution(x, parameter), want)
    twin = copy.deepcopy(parameter)
    twin.zero_()
    assert twin.tiles is not None and not torch.equal(twin.dense(), parameter.data.dense())
    if faster:
        assert torch.equal(convolution(x, parameter), want)
    elif torch.bfloat16 in TYPES:  # oneDNN gets the values as they are now
        assert torch.equal(
            convolution(x, parameter), convolution(x, PackedWeight.pack(mirror, input_shape=x.shape))
        )
    parameter.data = weight.float()
    assert parameter.tiles is None and parameter.dtype == torch.float32


def test_bad_calls_reach_no_memory() -> None:
    assert library is not None
    for sizes, outputs, said in (
        ((1, 4, 3, 32), 16, "width is 3; accepted: an even number"),
        ((1, 4, 4, 33), 16, "channels is 33; accepted: a multiple of 32"),
        ((1, 0, 4, 32), 16, "height is 0"),
        ((-1, 4, 4, 32), 16, "images is -1"),
        ((1, 4, 4, 32), 17, "outputs is 17; accepted: a multiple of 16"),
    ):
        with pytest.raises(ValueError, match=said):
            library.winograd(1, 1, 0, 0, 0, 1, sizes, outputs, 1, 1)
    with pytest.raises(ValueError, match="are needed"):
        library.winograd(1, 0, 0, 0, 0, 1, (1, 4, 4, 32), 16, 1, 1)
    with pytest.raises(ValueError, match="unknown instruction set"):
        library.winograd(1, 1, 0, 0, 0, 1, (1, 4, 4, 32), 16, 1, 1, "mmx")
