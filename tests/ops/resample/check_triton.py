"""resample's Triton kernel against the reference, interpreted or on a device; test_triton.py runs this in its own process."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import teach_bfloat16
from support.resample_calls import arguments
from support.triton_device import DEVICE

from glide_fast.ops import resample
from glide_fast.ops.backends import force
from glide_fast.ops.resample import triton as resample_triton
from glide_fast.ops.resample.arguments import MODES, Call
from glide_fast.ops.resample.reference import reference
from glide_fast.ops.triton_runtime import interpreting

if interpreting():
    teach_bfloat16()


on_device = functools.partial(arguments, gaps=(2, 2, 2), device=DEVICE)


@settings(max_examples=60)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.sampled_from([1, 3, 16, 17, 48, 67, 130]), st.integers(1, 5), st.integers(1, 9)
    ),
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    bias=st.sampled_from([None, torch.float32, torch.float16]),
    residual=st.booleans(),
    gaps=st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(2, 5)),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_the_reference_bit_for_bit(
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
    call = on_device(shape, dtype, bias, residual, seed, gaps=gaps)
    truth = reference(mode=mode, **call)
    rows, columns = truth.shape[2:]
    arena = torch.full((n, rows + 2, columns + 3, c + 4), 7.0, dtype=dtype, device=DEVICE)
    out = arena[:, 1:-1, 1:-2, 2:-2].permute(0, 3, 1, 2)
    out.fill_(float("nan"))
    resample_triton.run(Call(mode=mode, **call), out=out)
    assert torch.equal(out, truth)
    out.fill_(7.0)
    assert bool((arena == 7).all()), "something was written outside the output"


@pytest.mark.parametrize("mode", MODES)
def test_glide_shapes_through_the_public_op(mode: str) -> None:
    """More pixels than a tile, in both axes of the grid."""
    call = on_device((2, 192, 12, 14), torch.float16, torch.float32, True)
    with force(resample="triton"):
        y = resample(mode=mode, **call)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, reference(mode=mode, **call))


def test_values_near_the_range_of_fp16() -> None:
    """Four values whose sum leaves fp16's range have a mean within it."""
    x = torch.full((1, 8, 2, 2), 6e4, dtype=torch.float16, device=DEVICE).to(
        memory_format=torch.channels_last
    )
    with force(resample="triton"):
        assert torch.equal(resample(x, "mean_2x2"), x[:, :, :1, :1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinity_reaches_its_own_pixels_only(value: float) -> None:
    call = on_device((1, 19, 4, 6), torch.float16, torch.float32, True)
    call["x"][0, 18, 3, 2] = value
    with force(resample="triton"):
        mean, repeated = resample(mode="mean_2x2", **call), resample(mode="nearest_x2", **call)
    assert (~mean.isfinite()).nonzero().tolist() == [[0, 18, 1, 1]]
    assert (~repeated.isfinite()).nonzero().tolist() == [[0, 18, r, c] for r in (6, 7) for c in (4, 5)]
