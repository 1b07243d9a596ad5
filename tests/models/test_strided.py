"""Convolutions with a stride in bf16 whose result is one pixel wide: garbage from some processors' oneDNN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glide_fast.models.clip_image import ImageEmbedding, standardise
from glide_fast.models.unet import Downsample, conv_nd
from glide_fast.ops import convolution
from glide_fast.ops.backends import force
from glide_fast.ops.convolution import OP
from glide_fast.ops.convolution import narrow as narrow_convolution
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not

SIZES = [(16, 1), (16, 2), (64, 2), (8, 1), (1, 1), (2, 1), (1, 16), (2, 16), (16, 4), (5, 3)]
TOLERANCE = 2.0**-6


def operands(
    height: int, width: int, channels_last: bool, kernel: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    x = torch.randn(2, 16, height, width, generator=generator).bfloat16()
    weight = (torch.randn(16, 16, kernel, kernel, generator=generator) / (4 * kernel)).bfloat16()
    return (x.to(memory_format=torch.channels_last), weight) if channels_last else (x, weight)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_op(size: tuple[int, int], channels_last: bool, kernel: int, backend: str | None) -> None:
    x, weight = operands(*size, channels_last, kernel)
    want = F.conv2d(x.double(), weight.double(), None, 2, kernel // 2)
    with force(**({} if backend is None else {"convolution": backend})):
        got = convolution(x, weight, stride=2)
        torch.testing.assert_close(got.double(), want, rtol=TOLERANCE, atol=TOLERANCE)
        if why_not(torch.bfloat16) is None:
            packed = PackedWeight.pack(weight, input_shape=x.shape, stride=2)
            got = convolution(x, packed, stride=2)
            torch.testing.assert_close(got.double(), want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (3, 3)])
def test_strides_of_two_numbers(stride: tuple[int, int]) -> None:
    x, weight = operands(16, 2, True)
    want = F.conv2d(x.double(), weight.double(), None, stride, 1)
    got = convolution(x, weight, stride=stride).double()
    torch.testing.assert_close(got, want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_plain_model_s_layer(size: tuple[int, int], channels_last: bool) -> None:
    layer = Downsample(16, use_conv=True)
    x, weight = operands(*size, channels_last)
    with torch.no_grad():
        layer.op.weight.copy_(weight)
    want = F.conv2d(x.double(), weight.double(), layer.op.bias.bfloat16().double(), 2, 1)
    got = layer.bfloat16()(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), want, rtol=TOLERANCE, atol=TOLERANCE)


def test_one_and_three_dimensions() -> None:
    for dims, shape in ((1, (2, 16, 2)), (3, (1, 16, 3, 16, 2))):
        layer = Downsample(16, use_conv=True, dims=dims)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        want = layer(x)
        torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), want, rtol=3e-2, atol=3e-2)


def test_its_gradients() -> None:
    layer = Downsample(16, use_conv=True)
    x, _ = operands(16, 2, False)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = layer.to(dtype)
        layer.zero_grad()
        layer(x.to(dtype)).float().square().sum().backward()
        gradients.append(layer.op.weight.grad.clone().float())
    torch.testing.assert_close(*gradients, rtol=5e-2, atol=5e-1)


def test_compiled_it_is_right_too() -> None:
    x, weight = operands(16, 2, True)
    compiled = torch.compile(lambda x: convolution(x, weight, stride=2), backend="aot_eager", fullgraph=True)
    want = F.conv2d(x.double(), weight.double(), None, 2, 1)
    torch.testing.assert_close(compiled(x).double(), want, rtol=TOLERANCE, atol=TOLERANCE)
    torch.compiler.reset()


def test_onednn_says_why_it_declines() -> None:
    x, weight = operands(16, 2, True)
    reasons = {v.backend: v.reason for v in OP.explain(Call(x, weight, stride=2).facts()).verdicts}
    assert "one column" in str(reasons["onednn"]) or why_not(torch.bfloat16) is not None
    assert reasons["reference"] is None


@pytest.mark.parametrize(
    "case",
    [
        ("cuda", torch.bfloat16, 2, 1),
        ("cpu", torch.float32, 2, 1),
        ("cpu", torch.bfloat16, 1, 1),
        ("cpu", torch.bfloat16, 2, 2),
    ],
)
def test_elsewhere_nothing_is_wrong(case: tuple[str, torch.dtype, int, int]) -> None:
    assert narrow_convolution.why_wrong(*case) is None
    assert narrow_convolution.why_wrong("cpu", torch.bfloat16, 2, 1) is not None


def test_a_stride_may_be_given_by_position() -> None:
    for layer in (conv_nd(2, 4, 4, 3, 2), conv_nd(2, 4, 4, 3, stride=2)):
        assert isinstance(layer, torch.nn.Conv2d) and type(layer) is not torch.nn.Conv2d
    assert type(conv_nd(2, 4, 4, 3, padding=1)) is torch.nn.Conv2d


@pytest.mark.parametrize("patch", [1, 2, 3, 4, 8, 16])
def test_the_clips_patches_are_right_however_few(patch: int) -> None:
    """They have a stride, too: three channels, no padding, and kernels as large as the stride are not concerned."""
    for side in (1, 2):
        layer = ImageEmbedding(patch * side, patch, 16, n_timestep=4, device="cpu").bfloat16()
        pixels = (
            torch.rand(2, 3, patch * side, patch * side, generator=torch.Generator().manual_seed(0)) * 255
        )
        t = torch.tensor([0, 3])
        got = layer(pixels, t)
        patches = F.conv2d(standardise(pixels).bfloat16().double(), layer.patch_proj.double(), stride=patch)
        leading = layer.w_t.double()[t][:, None]
        tokens = torch.cat([leading, patches.flatten(2).transpose(1, 2)], dim=1) + layer.w_pos.double()
        want = layer.double().ln(tokens)
        torch.testing.assert_close(got.double(), want, rtol=2.0**-5, atol=2.0**-5)
