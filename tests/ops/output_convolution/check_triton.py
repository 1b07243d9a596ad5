"""The last convolution's Triton kernels against fp64, interpreted or on a device; tests/ops/test_triton.py runs this."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from glide_fast.kernels import output_convolution as kernels
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.triton_device import DEVICE

from glide_fast.errors import BackendError
from glide_fast.ops import output_convolution
from glide_fast.ops.backends import force
from glide_fast.ops.output_convolution import triton as output_convolution_triton
from glide_fast.ops.output_convolution.arguments import Call
from glide_fast.ops.triton_runtime import interpreting

UNIT = 2.0**-20
"""What a product may err by, relative to itself with the largest weight of its column; the sums in fp32 included."""


def operands(
    n: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
    scale: float = 1.0,
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    x = F.silu(normal(n, inputs, height, width)).to(dtype, memory_format=torch.channels_last)
    weight = normal(outputs, inputs, 3, 3) * scale
    return {"x": x.to(DEVICE), "weight": weight.to(DEVICE), "bias": (normal(outputs) * scale).to(DEVICE)}


def launched(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, cut: kernels.Plan | None = None
) -> torch.Tensor:
    """The kernels' result, of a picture between NaN, out of a result and a workspace of NaN between canaries."""
    n, inputs, height, width = x.shape
    outputs, pixels = weight.shape[0], n * height * width
    memory = torch.full((x.numel() + 128,), float("nan"), dtype=x.dtype, device=DEVICE)
    inside = memory[64:-64].view(n, height, width, inputs).permute(0, 3, 1, 2).copy_(x)
    arena = torch.full((pixels * outputs + 128,), 7.0, device=DEVICE)
    y = arena[64:-64].fill_(float("nan")).view(n, height, width, outputs).permute(0, 3, 1, 2)
    count = pixels * kernels.columns(outputs)
    workspace = torch.full((count + 64,), float("nan"), device=DEVICE)
    workspace[count:] = 7.0
    kernels.launch(inside, weight, bias, y, cut=cut, workspace=workspace)
    assert bool((arena[:64] == 7).all()) and bool((arena[-64:] == 7).all()), (
        "something was written outside the output"
    )
    assert bool((workspace[count:] == 7).all()), "something was written outside the workspace"
    return y.clone()


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)


def allowance(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Element by element: what the products may err by, each with the largest weight of its output and tap, and the bias."""
    largest = weight.abs().amax(dim=1, keepdim=True).expand_as(weight)
    return UNIT * exact(x.abs(), largest, None if bias is None else bias.abs())


@settings(
    max_examples=10 if interpreting() else 60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    n=st.integers(1, 2),
    inputs=st.sampled_from([1, 16, 17, 40]),
    outputs=st.sampled_from([1, 3, 6, 14]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 3e-6, 1e5]),
    step=st.sampled_from([None, 16, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_errs_as_little_as_22_bits_of_the_weights_allow(
    n: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    bias: bool,
    scale: float,
    step: int | None,
    seed: int,
) -> None:
    call = operands(n, inputs, outputs, height, width, dtype, seed, scale)
    terms = (call["x"], call["weight"], call["bias"] if bias else None)
    cut = None if step is None else kernels.Plan(16, step, 4, 1)
    error = (launched(*terms, cut).double() - exact(*terms)).abs()
    assert bool((error <= allowance(*terms)).all()), float((error - allowance(*terms)).max())


def test_weights_in_fp16_alone_would_err_more() -> None:
    """Otherwise the bound above would say nothing of the second part of a weight."""
    call = operands(1, 40, 6, 4, 4)
    rounded = call["weight"].half().float()
    error = (exact(call["x"], rounded, call["bias"]) - exact(**call)).abs()
    assert bool((error > 8 * allowance(**call)).any())


def test_an_identity_at_each_tap_moves_the_picture() -> None:
    x = operands(2, 14, 14, 3, 5)["x"]
    padded = F.pad(x, (1, 1, 1, 1)).float()
    for tap in range(9):
        weight = torch.zeros(14, 14, 3, 3, device=DEVICE)
        weight[:, :, tap // 3, tap % 3] = torch.eye(14)
        moved = padded[:, :, tap // 3 : tap // 3 + 3, tap % 3 : tap % 3 + 5]
        assert torch.equal(launched(x, weight, None, kernels.Plan(16, 16, 4, 1)), moved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_its_neighbourhood_only(dtype: torch.dtype, value: float) -> None:
    call = operands(2, 17, 6, 4, 5, dtype)
    call["x"][1, 16, 0, 4] = value
    y = launched(**call, cut=kernels.Plan(16, 32, 4, 1))
    want = F.conv2d(call["x"].float(), call["weight"], call["bias"], padding=1)
    assert torch.equal(y.isnan(), want.isnan()) and torch.equal(y[want.isinf()], want[want.isinf()])
    assert torch.equal(y.isfinite(), want.isfinite())


def test_the_public_op_is_served_with_every_plan() -> None:
    call = operands(1, 24, 6, 3, 3)
    plain = Call(**call)
    with force(output_convolution="triton"):
        y = output_convolution(**call)
    assert y.dtype == torch.float32 and y.is_contiguous(memory_format=torch.channels_last)
    assert bool(((y.double() - exact(**call)).abs() <= allowance(**call)).all())
    first, *others = output_convolution_triton.plans(plain)
    assert kernels.Plan(**first) == kernels.plan(9, 24)
    for plan in others[:4] if interpreting() else others:
        again = output_convolution_triton.run(plain, plan=plan)
        assert bool(((again.double() - exact(**call)).abs() <= allowance(**call)).all()), plan
    with pytest.raises(ValueError, match="plan: got"):
        output_convolution_triton.run(plain, plan=first | {"pixels": 48})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.zeros(1, 24, 3, 3).bfloat16()}, "float16 and float32"),
        ({"x": torch.zeros(1, 24, 3, 3).half()}, "not channels-last"),
        ({"weight": torch.zeros(15, 24, 3, 3), "bias": torch.zeros(15)}, "14 at most"),
        ({"bias": torch.zeros(12)[::2]}, "side by side"),
    ],
    ids=["bf16", "x", "outputs", "bias"],
)
def test_it_declines_with_a_reason(change: dict[str, torch.Tensor], reason: str) -> None:
    call = operands(1, 24, 6, 3, 3) | {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with force(output_convolution="triton"), pytest.raises(BackendError, match=reason):
        output_convolution(**call)
