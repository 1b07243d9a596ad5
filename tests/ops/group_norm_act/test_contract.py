"""What group_norm_act promises whatever backend runs: the maths written out another way, layouts, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glide_fast.errors import InvalidInputError
from glide_fast.ops import group_norm_act
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act.reference import reference, reference_sum


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_option_at_once_is_the_official_order_of_operations() -> None:
    """In fp64, in separate steps: add, concatenate, normalise, FiLM, SiLU, resample."""
    x, residual, x_bias, x2 = normal(2, 8, 4, 6), normal(2, 8, 4, 6, seed=1), normal(8), normal(2, 4, 4, 6)
    weight, bias, scale, shift = normal(12), normal(12), normal(2, 12), normal(2, 12, seed=2)
    total = x + x_bias[:, None, None] + residual
    whole = torch.cat([total, x2], dim=1)
    grouped = whole.view(2, 3, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    y = normed.view_as(whole) * weight[:, None, None] + bias[:, None, None]
    y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    y = y / (1 + torch.exp(-y))
    options: dict[str, Any] = {"x2": x2, "residual": residual, "x_bias": x_bias}
    for resample, want in (
        (None, y),
        ("nearest_x2", y.repeat_interleave(2, 2).repeat_interleave(2, 3)),
        ("mean_2x2", y.view(2, 12, 2, 2, 3, 2).mean((3, 5))),
    ):
        got, kept = group_norm_act(
            x, weight, bias, 3, 1e-3, scale, shift, True, **options, keep_sum=True, resample=resample
        )
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(kept, total)


def test_what_is_normalised_is_the_rounded_sum() -> None:
    """1 and 2^-9 add up to 1 in bf16, so a sum that was not rounded would have a variance."""
    x = torch.ones(1, 2, 2, 2, dtype=torch.bfloat16)
    residual = torch.tensor([0.0, 2.0**-9], dtype=torch.bfloat16).repeat(4).view_as(x)
    one, zero = torch.ones(2), torch.zeros(2)
    with force("reference"):
        y, total = group_norm_act(x, one, zero, 1, 1e-12, residual=residual, keep_sum=True)
    assert (total == 1).all() and (y == 0).all()


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("out_dtype", [None, torch.bfloat16, torch.float32])
def test_the_type_of_the_result(backend: str | None, out_dtype: torch.dtype | None) -> None:
    x = normal(2, 8, 4, 4).bfloat16().to(memory_format=torch.channels_last)
    weight, bias = torch.ones(8), torch.zeros(8)
    with force(backend):
        y, total = group_norm_act(
            x, weight, bias, 2, x_bias=normal(8).float(), keep_sum=True, out_dtype=out_dtype
        )
    assert y.dtype == (out_dtype or torch.bfloat16) and total.dtype == torch.bfloat16
    truth = F.group_norm(total.double(), 2)
    assert float((y.double() - truth).abs().max()) < (1e-5 if out_dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("resample", [None, "nearest_x2", "mean_2x2"])
@pytest.mark.parametrize("wide", [False, True])
def test_channels_last_in_is_channels_last_out(backend: str | None, resample: str | None, wide: bool) -> None:
    """A channel slice of a wider tensor too."""
    x = normal(2, 24, 4, 6).float().to(memory_format=torch.channels_last)
    x = x[:, 8:16] if wide else x[:, :8].contiguous(memory_format=torch.channels_last)
    with force(backend):
        y, total = group_norm_act(
            x, torch.ones(8), torch.zeros(8), 2, residual=x, keep_sum=True, resample=resample
        )
    size = {None: (4, 6), "nearest_x2": (8, 12), "mean_2x2": (2, 3)}[resample]
    assert y.shape == (2, 8, *size) and total.shape == x.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert total.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("resample", [None, "nearest_x2", "mean_2x2"])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (2, 2)])
def test_windows_are_what_a_3x3_convolution_reads(
    backend: str | None, resample: str | None, height: int, width: int
) -> None:
    x = normal(2, 8, height, width).float().to(memory_format=torch.channels_last)
    options: dict[str, Any] = {"silu": True, "residual": x, "keep_sum": True, "resample": resample}
    with force(backend):
        y, total = group_norm_act(x, torch.ones(8), torch.zeros(8), 2, **options)
        windows, again = group_norm_act(x, torch.ones(8), torch.zeros(8), 2, **options, windows=True)
    torch.testing.assert_close(again, total, rtol=0, atol=0)
    assert windows.shape == (2, *y.shape[2:], 9, 8) and windows.is_contiguous()
    unfolded = F.unfold(y, 3, padding=1).view(2, 8, 9, *y.shape[2:]).permute(0, 3, 4, 2, 1)
    torch.testing.assert_close(windows, unfolded)
    assert (windows[:, 0, :, :3] == 0).all() and (windows[:, :, -1, 2::3] == 0).all()


def test_gradients_reach_through_windows() -> None:
    a: dict[str, torch.Tensor] = {"x": normal(1, 4, 3, 2), "weight": normal(4), "bias": normal(4)}
    a = {name: tensor.requires_grad_() for name, tensor in a.items()}

    def through(*tensors: torch.Tensor) -> torch.Tensor:
        y = group_norm_act(*tensors, groups=2, silu=True, windows=True)
        assert isinstance(y, torch.Tensor)
        return y

    assert torch.autograd.gradcheck(through, tuple(a.values()))


def test_gradients_of_all_inputs_are_those_of_the_reference() -> None:
    a: dict[str, torch.Tensor] = {
        "x": normal(2, 8, 4, 4), "weight": normal(12), "bias": normal(12), "scale": normal(2, 12),
        "shift": normal(2, 12), "x2": normal(2, 4, 4, 4), "residual": normal(2, 8, 4, 4), "x_bias": normal(8),
    }  # fmt: skip
    a = {name: tensor.float().requires_grad_() for name, tensor in a.items()}
    y, total = group_norm_act(**a, groups=3, silu=True, resample="mean_2x2", keep_sum=True)
    ours = torch.autograd.grad(y.square().sum() + total.sum(), list(a.values()))
    z = reference(**a, groups=3, silu=True, resample="mean_2x2")
    loss = z.square().sum() + reference_sum(a["x"], a["residual"], a["x_bias"]).sum()
    for mine, theirs in zip(ours, torch.autograd.grad(loss, list(a.values())), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"x": torch.zeros(2, 8)}, "x"),
        ({"groups": 5}, "groups"),
        ({"groups": 0}, "groups"),
        ({"weight": torch.ones(7)}, "weight, bias"),
        ({"scale": torch.ones(2, 8)}, "scale, shift"),
        ({"scale": torch.ones(2, 7), "shift": torch.ones(2, 7)}, "scale"),
        ({"x2": torch.zeros(2, 4, 4, 5)}, "x2"),
        ({"x2": torch.zeros(2)}, "x2"),
        ({"x2": torch.zeros(2, 4, 4, 4).double()}, "x2"),
        ({"x2": torch.zeros(2, 4, 4, 4)}, "weight, bias"),
        ({"residual": torch.zeros(2, 8, 4, 5)}, "residual"),
        ({"residual": torch.zeros(2, 8, 4, 4).half()}, "residual"),
        ({"residual": torch.zeros(2, 8, 4, 4, device="meta")}, "residual"),
        ({"x_bias": torch.zeros(4)}, "x_bias"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": "mean_2x2", "x": torch.zeros(2, 8, 4, 3)}, "resample"),
        ({"resample": "nearest_x2", "x": torch.zeros(2, 8, 4)}, "resample"),
        ({"out_dtype": torch.float16}, "out_dtype"),
        ({"windows": None}, "windows"),
        ({"windows": True, "x": torch.zeros(2, 8, 4)}, "windows"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], argument: str) -> None:
    good: dict[str, Any] = {
        "x": torch.zeros(2, 8, 4, 4),
        "weight": torch.ones(8),
        "bias": torch.zeros(8),
        "groups": 2,
    }
    group_norm_act(**good)
    with pytest.raises(InvalidInputError, match=rf"^{argument}: got .*; accepted: "):
        group_norm_act(**{**good, **change})


@pytest.mark.parametrize("single", [True, False])
def test_an_empty_batch(single: bool) -> None:
    x = normal(0, 8, 1, 1) if single else normal(0, 8, 2, 3)
    groups = 8 if single else 2
    for gradients in (False, True):
        y = group_norm_act(x.requires_grad_(gradients), normal(8), normal(8), groups)
        assert y.shape == x.shape
    batches, weight = normal(3, *x.shape), normal(8)
    assert torch.vmap(lambda x: group_norm_act(x, weight, weight, groups))(batches).shape == batches.shape
