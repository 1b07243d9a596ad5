"""Layer norms of the text transformer and of CLIP: as exact as fp32 rounded once, whatever types meet, without a copy of x."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.traced import copies_of_activations

from glide_fast.models import clip_blocks, layers

HALVES = (torch.float16, torch.bfloat16)


def arguments(
    width: int, dtype: torch.dtype, parameters: torch.dtype, mean: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, width, generator=generator) * 0.5 + mean
    weight, bias = torch.randn(2, width, generator=generator).unbind()
    return x.to(dtype), weight.to(parameters), bias.to(parameters)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x.double(), weight.shape, weight.double(), bias.double())


@given(
    width=st.integers(1, 600),
    dtype=st.sampled_from(HALVES),
    parameters=st.sampled_from([torch.float32, None]),
    mean=st.sampled_from([0.0, 2.3, -40.0]),
    by_group_norm=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_half_precision_is_rounded_once(
    width: int,
    dtype: torch.dtype,
    parameters: torch.dtype | None,
    mean: float,
    by_group_norm: bool,
    seed: int,
) -> None:
    x, weight, bias = arguments(width, dtype, parameters or dtype, mean, seed)
    norm = layers.layer_norm_by_group_norm if by_group_norm else layers.layer_norm
    result = norm(x, weight, bias, 1e-5)
    truth = exact(x, weight, bias)
    assert result.dtype == dtype and result.shape == x.shape
    # Half a unit in the last place, and the error of fp32: that of the mean is divided by the deviation.
    spread = (x.double().var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
    rounding = torch.finfo(dtype).eps / 2 * truth.abs() + torch.finfo(dtype).smallest_normal
    wide = 2.0**-20 * (1 + abs(mean) * spread) * (weight.double().abs() + bias.double().abs())
    assert bool(((result.double() - truth).abs() <= 1.001 * rounding + wide).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", [torch.bfloat16, torch.float32, torch.float64])
def test_parameters_of_another_type_than_wide_activations(
    dtype: torch.dtype, parameters: torch.dtype
) -> None:
    x, weight, bias = arguments(96, dtype, parameters, 2.3)
    result = layers.layer_norm(x, weight, bias)
    assert result.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(result.double(), exact(x, weight, bias), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", HALVES)
def test_nothing_is_copied_and_no_fp32_activation_is_made(dtype: torch.dtype) -> None:
    for parameters in (torch.float32, dtype):
        x, *affine = arguments(96, dtype, parameters, 0.0)
        assert copies_of_activations(functools.partial(layers.layer_norm, x, *affine), affine) == []


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_keep_the_types_of_what_they_are_of(dtype: torch.dtype) -> None:
    x, weight, bias = (a.requires_grad_() for a in arguments(96, dtype, torch.float32, 1.0))
    inputs = (x, weight, bias)
    ours = torch.autograd.grad(layers.layer_norm(*inputs).float().square().sum(), inputs)
    wide = [a.detach().double().requires_grad_() for a in inputs]
    theirs = torch.autograd.grad(exact(*wide).square().sum(), wide)
    assert [g.dtype for g in ours] == [dtype, torch.float32, torch.float32]
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 2 * torch.finfo(dtype).eps


def test_where_torch_does_not_take_the_mix_it_is_a_group_norm() -> None:
    x, weight, bias = (a.to("meta") for a in arguments(96, torch.bfloat16, torch.float32, 0.0))
    result = layers.layer_norm(x, weight, bias)
    assert result.dtype == torch.bfloat16 and result.shape == x.shape


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_both_modules_are_this_function(dtype: torch.dtype) -> None:
    x, weight, bias = arguments(96, dtype, torch.float32, 1.0)
    want = layers.layer_norm(x, weight, bias)
    text, clip = layers.LayerNorm(96), clip_blocks.LayerNorm(96)
    text.load_state_dict({"weight": weight, "bias": bias})
    clip.load_state_dict({"g": weight, "b": bias})
    assert torch.equal(text(x), want) and torch.equal(clip(x), want)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("parameters", [torch.float32, None])
def test_on_a_device(dtype: torch.dtype, parameters: torch.dtype | None) -> None:
    x, *affine = (a.cuda() for a in arguments(512, dtype, parameters or dtype, 2.3))
    truth = exact(x, *affine)
    error = (layers.layer_norm(x, *affine).double() - truth).abs()
    assert bool((error <= torch.finfo(dtype).eps * (1 + truth.abs())).all())
    assert copies_of_activations(functools.partial(layers.layer_norm, x, *affine), affine) == []
