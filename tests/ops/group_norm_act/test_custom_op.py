"""group_norm_act as torch.compile sees it: two registered ops with fakes, and the reference's gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_fast.ops import group_norm_act, native
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act.reference import reference, reference_sum
from glide_fast.ops.group_norm_act.traced import ADD_NORM, NORM

OPS = {"norm": NORM.operator, "add": ADD_NORM.operator}
EXTRAS: dict[str, dict[str, Any]] = {
    "film": {"film": True},
    "skip, nearest": {"x2": 9, "resample": "nearest_x2"},
    "residual": {"residual": True, "x_bias": True},
    "all": {"film": True, "x2": 6, "residual": True, "x_bias": True, "resample": "mean_2x2"},
    "windows": {"residual": True, "windows": True},
}


def arguments(
    channels_last: bool = True,
    gradients: bool = False,
    film: bool = False,
    x2: int = 0,
    residual: bool = False,
    x_bias: bool = False,
    resample: str | None = None,
    out_dtype: torch.dtype | None = None,
    windows: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[Any]:
    """In the custom ops' order; ``x2`` is its channel count."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int) -> torch.Tensor:
        x = torch.randn(size, generator=generator).to(dtype)
        return x.to(memory_format=torch.channels_last) if channels_last and len(size) == 4 else x

    channels = 12 + x2
    call = [
        normal(2, 12, 6, 4),
        *normal(2, channels).unbind(),
        3,
        1e-5,
        *(normal(2, 2 * channels).chunk(2, dim=1) if film else (None, None)),
        True,
        normal(2, x2, 6, 4) if x2 else None,
        normal(2, 12, 6, 4) if residual else None,
        normal(12) if x_bias else None,
        resample,
        out_dtype,
        windows,
    ]
    if gradients:
        call = [a.detach().clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in call]
    return call


def tensors(call: list[Any]) -> list[torch.Tensor]:
    return [a for a in call if isinstance(a, torch.Tensor)]


def expected(call: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    *positional, windows = call
    return reference(*positional, windows=windows), reference_sum(call[0], call[9], call[10])


def scalar(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Something to differentiate, that every output has a part in."""
    outputs = (result,) if isinstance(result, torch.Tensor) else result
    return torch.stack([(output * (i + 1)).square().sum() for i, output in enumerate(outputs)]).sum()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_it_keeps_its_promises(name: str, extra: str, channels_last: bool, gradients: bool) -> None:
    torch.library.opcheck(OPS[name], tuple(arguments(channels_last, gradients, **EXTRAS[extra])))


def test_it_keeps_its_promises_with_another_type_out() -> None:
    call = tuple(arguments(x2=3, out_dtype=torch.float32, dtype=torch.bfloat16))
    assert NORM.operator(*call).dtype == torch.float32
    torch.library.opcheck(NORM.operator, call)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_its_gradients_are_those_of_the_reference(name: str, extra: str) -> None:
    call = arguments(gradients=True, **EXTRAS[extra])
    ours = torch.autograd.grad(scalar(OPS[name](*call)), tensors(call))
    want = expected(call) if name == "add" else expected(call)[0]
    theirs = torch.autograd.grad(scalar(want), tensors(call))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_reach_through_one_output_alone() -> None:
    """The other's upstream is absent then."""
    call = arguments(gradients=True, residual=True)
    for i in (0, 1):
        ours = torch.autograd.grad(scalar(ADD_NORM.operator(*call)[i]), tensors(call), materialize_grads=True)
        theirs = torch.autograd.grad(scalar(expected(call)[i]), tensors(call), materialize_grads=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_its_result_is_laid_out_as_promised_whatever_backend_ran(backend: str) -> None:
    if backend == "cpu" and (reason := native.why_missing()):
        pytest.skip(reason)
    call = arguments()
    strided = torch.randn(2, 6, 4, 24)[..., :12].permute(0, 3, 1, 2)
    with force(group_norm_act=backend):
        y = NORM.operator(strided, *call[1:])
    assert y.stride() == call[0].stride()
    torch.testing.assert_close(y, expected([strided, *call[1:]])[0])


def test_a_sum_that_adds_nothing_is_a_copy_in_the_op_and_x_itself_outside() -> None:
    call = arguments()
    _, total = ADD_NORM.operator(*call)
    assert torch.equal(total, call[0]) and total.data_ptr() != call[0].data_ptr()
    _, total = group_norm_act(*call[:8], keep_sum=True)
    assert total is call[0]


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_under_torch_compile_it_breaks_no_graph(name: str, extra: str) -> None:
    torch.compiler.reset()  # one function is compiled anew only so many times
    call = arguments(gradients=True, **EXTRAS[extra])

    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(*a: Any) -> torch.Tensor:
        return scalar(OPS[name](*a))

    result = run(*call)
    want = scalar(expected(call) if name == "add" else expected(call)[0])
    torch.testing.assert_close(result, want)
    ours = torch.autograd.grad(result, tensors(call))
    theirs = torch.autograd.grad(want, tensors(call))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_public_function_under_torch_compile_breaks_no_graph() -> None:
    call = arguments(film=True, x2=6, residual=True)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(*a: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return group_norm_act(*a[:8], x2=a[8], residual=a[9], keep_sum=True)

    for got, want in zip(run(*call), expected(call), strict=True):
        torch.testing.assert_close(got, want)
