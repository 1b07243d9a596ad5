"""output_convolution: the convolution that it is, what rounding its input costs, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glide_fast.errors import InvalidInputError
from glide_fast.ops import output_convolution
from glide_fast.ops.case import relative_error
from glide_fast.ops.output_convolution.traced import NODE


def operands(dtype: torch.dtype = torch.float16, inputs: int = 12, side: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = F.silu(torch.randn(2, inputs, side, side, generator=generator))
    wide = torch.promote_types(dtype, torch.float32)
    return {
        "x": x.to(dtype, memory_format=torch.channels_last),
        "weight": torch.randn(6, inputs, 3, 3, generator=generator).to(wide),
        "bias": torch.randn(6, generator=generator).to(wide),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_it_is_the_convolution_in_the_weights_type(dtype: torch.dtype) -> None:
    a = operands(dtype)
    y = output_convolution(**a)
    assert y.dtype == a["weight"].dtype and y.is_contiguous(memory_format=torch.channels_last)
    want = F.conv2d(a["x"].double(), a["weight"].double(), a["bias"].double(), padding=1)
    assert relative_error([y], [want]) <= 1e-6


def rounded_to_tf32(x: torch.Tensor) -> torch.Tensor:
    """To ten bits behind the leading one, as tensor cores read fp32."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def test_pixels_in_fp16_cost_less_than_torchs_own_convolution_on_a_gpu_may() -> None:
    """torch lets cuDNN convolve fp32 in TF32 (``torch.backends.cudnn.allow_tf32``), which rounds pixels as fp16 does."""
    a = operands(torch.float32, inputs=192, side=8)
    truth = F.conv2d(a["x"].double(), a["weight"].double(), padding=1)
    ours = F.conv2d(a["x"].half().double(), a["weight"].double(), padding=1)
    tf32 = F.conv2d(rounded_to_tf32(a["x"]).double(), rounded_to_tf32(a["weight"]).double(), padding=1)
    assert relative_error([ours], [truth]) <= 2.5e-4
    assert relative_error([ours], [truth]) <= relative_error([tf32], [truth])


def test_gradients_are_those_of_the_convolution() -> None:
    a = {name: t.requires_grad_() for name, t in operands(torch.float64, inputs=3, side=2).items()}
    assert torch.autograd.gradcheck(output_convolution, tuple(a.values()))


def test_the_operator_keeps_its_promises() -> None:
    call = [t.detach().clone().requires_grad_() for t in operands(torch.float32).values()]
    torch.library.opcheck(NODE.operator, tuple(call))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"x": torch.zeros(2, 12, 4)}, "x"),
        ({"x": torch.zeros(2, 12, 4, 4).int()}, "x"),
        ({"weight": torch.zeros(6, 12, 1, 1)}, "weight"),
        ({"weight": torch.zeros(6, 12, 3, 3).half()}, "weight"),
        ({"bias": torch.zeros(5)}, "bias"),
        ({"bias": torch.zeros(6).half()}, "bias"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{argument}: got .*; accepted: "):
        output_convolution(**{**operands(), **change})
