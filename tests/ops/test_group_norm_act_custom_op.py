"""group_norm_act as torch.compile sees it: one registered op with a fake, and the reference's gradients."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

op = importlib.import_module("glide_fast.ops.group_norm_act")


def arguments(channels_last: bool, film: bool, gradients: bool) -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 12, 5, 4, generator=generator)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    scale, shift = torch.randn(2, 24, generator=generator).chunk(2, dim=1) if film else (None, None)
    weight, bias = torch.randn(2, 12, generator=generator).unbind()
    call = [x, weight, bias, 3, 1e-5, scale, shift, True]
    if gradients:
        call = [a.detach().clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in call]
    return call


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_it_keeps_its_promises(channels_last: bool, film: bool, gradients: bool) -> None:
    torch.library.opcheck(op._custom_op, tuple(arguments(channels_last, film, gradients)))


@pytest.mark.parametrize("film", [False, True])
def test_it_gives_the_gradients_of_the_reference(film: bool) -> None:
    call = arguments(True, film, True)
    inputs = [a for a in call if isinstance(a, torch.Tensor)]
    ours = torch.autograd.grad(op._custom_op(*call).square().sum(), inputs)
    theirs = torch.autograd.grad(op.reference(*call).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_its_result_is_laid_out_as_its_input_whatever_backend_ran() -> None:
    call = arguments(True, True, False)
    strided = torch.randn(2, 5, 4, 24)[..., :12].permute(0, 3, 1, 2)
    assert op._custom_op(strided, *call[1:]).stride() == torch.empty_like(strided).stride()


def test_under_torch_compile_it_breaks_no_graph() -> None:
    call = arguments(True, True, True)
    run = torch.compile(lambda *a: op._custom_op(*a) * 2, backend="aot_eager", fullgraph=True)
    result = run(*call)
    torch.testing.assert_close(result, op.reference(*call) * 2)
    inputs = [a for a in call if isinstance(a, torch.Tensor)]
    ours = torch.autograd.grad(result.sum(), inputs)
    theirs = torch.autograd.grad((op.reference(*call) * 2).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
