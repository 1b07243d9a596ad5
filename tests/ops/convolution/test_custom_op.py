"""convolution as torch.compile sees it: one registered op with a fake, and the reference's gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glide_fast.ops import convolution
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.reference import reference
from glide_fast.ops.convolution.traced import NODE


def arguments(
    channels_last: bool = True, bias: bool = True, residual: bool = True, gradients: bool = False
) -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    x, skip = torch.randn(2, 8, 6, 5, generator=generator), torch.randn(2, 12, 3, 3, generator=generator)
    if channels_last:
        x, skip = x.to(memory_format=torch.channels_last), skip.to(memory_format=torch.channels_last)
    weight, shift = torch.randn(12, 8, 3, 3, generator=generator), torch.randn(12, generator=generator)
    call = [x, weight, shift if bias else None, skip if residual else None]
    if gradients:
        call = [None if t is None else t.requires_grad_() for t in call]
    return [*call, [2, 2], [1, 1]]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("bias", "residual"), [(True, True), (True, False), (False, True), (False, False)])
def test_it_keeps_its_promises(channels_last: bool, gradients: bool, bias: bool, residual: bool) -> None:
    torch.library.opcheck(NODE.operator, tuple(arguments(channels_last, bias, residual, gradients)))


@pytest.mark.parametrize(("bias", "residual"), [(True, True), (True, False), (False, True), (False, False)])
def test_it_gives_the_gradients_of_the_reference(bias: bool, residual: bool) -> None:
    call = arguments(True, bias, residual, True)
    inputs = [t for t in call if isinstance(t, torch.Tensor)]
    ours = torch.autograd.grad(NODE(Call(*call)).square().sum(), inputs)
    theirs = torch.autograd.grad(reference(*call).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels_last", [False, True])
def test_its_result_is_laid_out_as_its_input(channels_last: bool) -> None:
    result = NODE(Call(*arguments(channels_last)))
    assert result.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_under_torch_compile_it_breaks_no_graph() -> None:
    call = arguments()
    run = torch.compile(lambda *a: NODE(Call(*a)) * 2, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(*call), reference(*call) * 2)


@pytest.mark.parametrize("packed", [False, True])
def test_under_torch_compile_the_public_op_is_right(packed: bool) -> None:
    x, weight, bias, residual, stride, _ = arguments()
    run = torch.compile(
        lambda x, w: convolution(x * 2, w, bias, residual=residual, stride=stride) + 1,
        backend="aot_eager",
        fullgraph=not packed,  # oneDNN's own tensors cannot be traced
    )
    result = run(x, PackedWeight.pack(weight, input_shape=x.shape, stride=2) if packed else weight)
    torch.testing.assert_close(result, F.conv2d(x * 2, weight, bias, 2, 1) + residual + 1)
