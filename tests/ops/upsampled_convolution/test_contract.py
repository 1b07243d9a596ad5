"""A convolution of the small picture in place of the upsampled one: against torch's own two steps, in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.ops import native
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not
from glide_fast.ops.upsampled_convolution import upsampled_convolution
from glide_fast.ops.upsampled_convolution.places import PLACES, interleave, place_weights

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    upsampled = F.interpolate(x.double(), scale_factor=2, mode="nearest")
    return F.conv2d(upsampled, weight.double(), None if bias is None else bias.double(), padding=1)


def drawn(
    shape: tuple[int, int, int, int], outputs: int, dtype: torch.dtype, with_bias: bool, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * 0.5 + 2.3).to(dtype)
    weight = (torch.randn(outputs, shape[1], 3, 3, generator=generator) / (3 * shape[1] ** 0.5)).to(dtype)
    bias = torch.randn(outputs, generator=generator) if with_bias else None
    return x.to(memory_format=torch.channels_last), weight, bias


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 16, 40]), st.integers(1, 6), st.integers(1, 6)),
    outputs=st.sampled_from([1, 5, 16, 48]),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_errs_no_more_than_twice_what_torch_does(
    dtype: torch.dtype,
    packed: bool,
    shape: tuple[int, int, int, int],
    outputs: int,
    with_bias: bool,
    seed: int,
) -> None:
    reason = why_not(dtype) if packed or dtype == torch.bfloat16 else None
    if reason is not None:
        pytest.skip(reason)
    x, weight, bias = drawn(shape, outputs, dtype, with_bias, seed)
    places = place_weights(weight)
    if packed:
        places = PackedWeight.pack(places, input_shape=shape)
    biases = None if bias is None else bias.repeat(PLACES)
    with torch.no_grad():
        got = upsampled_convolution(x, places, biases)
        upsampled = F.interpolate(x.float(), scale_factor=2, mode="nearest").to(dtype)
        plain = F.conv2d(upsampled, weight, None if bias is None else bias.to(dtype), padding=1)
    want = exact(x, weight, bias)
    assert got.shape == want.shape and got.dtype == dtype
    # A sum of weights is rounded, which is seen where few large products cancel.
    sizes = exact(x.abs(), weight.abs(), bias)
    allowed = 2 * (plain.double() - want).norm() + UNIT[dtype] / 2 * sizes.norm()
    assert (got.double() - want).norm() <= allowed
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_a_models_size_errs_no_more_than_torch_and_a_quarter(dtype: torch.dtype) -> None:
    """Also against what the rounded weights stand for."""
    if (reason := why_not(dtype)) is not None:
        pytest.skip(reason)
    x, weight, bias = drawn((2, 96, 8, 8), 96, torch.float32, True, 0)
    low, rounded = x.to(dtype), weight.to(dtype)
    assert bias is not None
    with torch.no_grad():
        got = upsampled_convolution(low, place_weights(rounded), bias.repeat(PLACES))
        plain = F.conv2d(
            low.repeat_interleave(2, 2).repeat_interleave(2, 3), rounded, bias.to(dtype), padding=1
        )
    want = exact(low, weight, bias)
    assert (got.double() - want).norm() <= 1.25 * (plain.double() - want).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 5, 3, 4), (3, 96, 20, 17)])
def test_every_pixel_goes_to_its_place(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Each value tells where it is from."""
    n, outputs, height, width = size
    shape = (n, PLACES * outputs, height + 1, width + 1)
    values = torch.arange(n * PLACES * outputs * (height + 1) * (width + 1)) % 2039
    places = values.view(shape).to(dtype).to(memory_format=torch.channels_last)
    want = torch.full((n, outputs, 2 * height, 2 * width), torch.nan, dtype=dtype)
    for place in range(PLACES):
        down, right = divmod(place, 2)
        part = places[:, place * outputs : (place + 1) * outputs]
        want[:, :, down::2, right::2] = part[:, :, down : down + height, right : right + width]
    assert torch.equal(interleave(places), want)


def test_without_the_library_torch_moves_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.randn(2, 12, 4, 6).to(memory_format=torch.channels_last)
    want = interleave(places)
    monkeypatch.setattr(native, "load", lambda: None)
    assert torch.equal(interleave(places), want)


@pytest.mark.skipif(native.load() is None, reason="the library is not built")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_kernel_writes_its_result_and_nothing_else(threads: int) -> None:
    n, outputs, height, width = 2, 8, 5, 3
    x = torch.randn(n, height + 1, width + 1, PLACES * outputs)
    arena = torch.full((64 + n * 4 * height * width * outputs + 64,), 7.0)
    library = native.load()
    assert library is not None
    library.interleave(x.data_ptr(), arena[64:].data_ptr(), (n, height, width), 4 * outputs, threads)
    assert bool((arena[:64] == 7).all()) and bool((arena[-64:] == 7).all())
    inner = arena[64:-64].view(n, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)
    assert torch.equal(inner, interleave(x.permute(0, 3, 1, 2)))


@pytest.mark.skipif(native.load() is None, reason="the library is not built")
@pytest.mark.parametrize("change", [{"x": 0}, {"y": 0}, {"sizes": (1, 0, 1)}, {"pixel": 0}])
def test_the_kernel_refuses_what_is_no_picture(change: dict[str, object]) -> None:
    x = torch.zeros(64)
    arguments = {"x": x.data_ptr(), "y": x.data_ptr(), "sizes": (1, 1, 1), "pixel": 4, "threads": 1}
    library = native.load()
    assert library is not None
    with pytest.raises(ValueError, match="interleave"):
        library.interleave(**arguments | change)


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (4, 3, 3), (4, 3, 5, 5)])
def test_only_3x3_weights_have_places(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"weight: .*\[O, C, 3, 3\]"):
        place_weights(torch.zeros(shape))
    with pytest.raises(InvalidInputError, match="place_weights"):
        upsampled_convolution(torch.zeros(1, 3, 4, 4), torch.zeros(shape))
