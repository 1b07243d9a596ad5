"""Layer norm by group_norm_act's Triton kernel, interpreted or on a device: test_triton.py runs this in a process of its own."""

from __future__ import annotations

import pytest
import torch
from support.interpreter import teach_bfloat16
from support.triton_device import DEVICE

from glide_fast.models.layers import layer_norm_by_group_norm
from glide_fast.ops.backends import force
from glide_fast.ops.triton_runtime import interpreting

if interpreting():
    teach_bfloat16()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 100, 512, 768])
def test_fp32_parameters_and_one_rounding(dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    x = (torch.randn(1, 3, width, generator=generator) * 0.5 + 2.3).to(dtype).to(DEVICE)
    weight, bias = torch.randn(2, width, generator=generator).to(DEVICE).unbind()
    truth = torch.nn.functional.layer_norm(x.double(), (width,), weight.double(), bias.double())
    with force(group_norm_act="triton"):
        result = layer_norm_by_group_norm(x, weight, bias, 1e-5)
    assert result.dtype == dtype and result.shape == x.shape
    assert bool(((result.double() - truth).abs() <= torch.finfo(dtype).eps / 2 * truth.abs() + 1e-5).all())
