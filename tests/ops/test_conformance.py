"""Every backend of every op that can run on a CPU, through every call that GLIDE makes (the ops' ``cases.py``) and every trap.

What is special about one backend is tested beside it. Triton's backends go through the same in check_conformance.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import conformance
from support.conformance import Arguments, Contestant, Judge, contestants, drawn, forced, prepared, result
from support.onednn import TYPES

from glide_fast.errors import BackendError
from glide_fast.ops import backends, native
from glide_fast.ops.case import Case, cases_of, relative_error

ELSEWHERE = {"cuda", "cudnn", "triton", "xformers"}
"""Backends for devices."""
ONLY_3X3 = {"upsampled_convolution": {"winograd"}}
"""Backends that take no 2x2 convolution."""
OF_TORCH = {"reference", "sdpa", "onednn", "cudnn"}
"""Backends that call operators of torch's."""
WIDENS_MEANS = {("convolution", "winograd")}
"""It rounds sums of two pixels: its error grows with their mean, as its docstring says and its own test measures."""
SPREADS = {("convolution", "winograd")}
"""It computes two columns from the four that either of them sees: NaN reaches both. Its own test says how far."""
EMPTY_SOFTMAX = {("masked_attention", "sdpa")}
"""Where all that a query sees has the logit minus infinity, torch's fused attention gives 0, and a softmax NaN."""
ONLY_ON_DEVICES = {"output_convolution"}
"""Ops that a network on a CPU does not call, and for which there is nothing but plain torch."""
BATCH = 5
"""No other dimension of an argument is as long: it tells which arguments have samples."""

OPS = conformance.names()
ALL = [pytest.param(op, case, id=f"{op}: {case.title}") for op in OPS for case in conformance.cases(op)]
KINDS = [
    pytest.param(op, case, id=f"{op}: {case.title}") for op in OPS for case in conformance.representatives(op)
]
DTYPES = (torch.float32, torch.bfloat16)
every_case = pytest.mark.parametrize(("op", "case"), ALL)
every_kind = pytest.mark.parametrize(("op", "case"), KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.mark.parametrize("op", sorted({*OPS, *backends.ops()}))
def test_every_op_says_what_glide_calls(op: str) -> None:
    module = cases_of(op)
    assert module.CASES and all(case.op == op for case in module.CASES)
    titles = [case.title for case in module.CASES]
    assert len(titles) == len(set(titles)) and module.FLOOR >= 0


@every_case
def test_every_case_is_right(op: str, case: Case) -> None:
    """In the type that models run in, out of guarded memory, and without a write to an argument."""
    check_case(op, case, torch.bfloat16)


@every_kind
def test_every_kind_of_case_is_right_in_fp32(op: str, case: Case) -> None:
    check_case(op, case, torch.float32)


def check_case(op: str, case: Case, dtype: torch.dtype) -> None:
    arguments = drawn(case, 2, dtype)
    judge = Judge(op, arguments)
    for contestant in contestants(op):
        own = prepared(op, arguments, contestant.backend)
        with conformance.unchanged(own), forced(op, contestant):
            try:
                with conformance.guarded():
                    found = result(op, own)
            except BackendError:
                continue
            judge.check(found, contestant)
            again = result(op, own)
            assert all(map(torch.equal, found, again)), f"{contestant} gives other bits the second time"


@pytest.mark.parametrize("op", OPS)
def test_every_backend_that_can_run_here_takes_a_case(op: str) -> None:
    """Otherwise the tests here would pass because it declines."""
    for name in set(conformance.backends_of(op).names) - ELSEWHERE - ONLY_3X3.get(op, set()):
        reasons = []
        for dtype, case in itertools.product(DTYPES, conformance.representatives(op)):
            arguments = prepared(op, drawn(case, 1, dtype), name)
            try:
                with forced(op, Contestant(name)):
                    result(op, arguments)
                break
            except BackendError as error:
                reasons.append(str(error))
        else:
            raise AssertionError(f"{name} takes none of the cases: {reasons}")


@pytest.mark.parametrize("op", sorted(set(OPS) - ONLY_ON_DEVICES))
def test_calls_do_not_all_fall_back_to_the_reference(op: str) -> None:
    if native.why_missing():
        pytest.skip(f"needs the native library: {native.why_missing()}")
    choices: list[backends.Choice] = []
    with backends.listen(choices.append), torch.inference_mode():
        for case in conformance.representatives(op):
            result(op, drawn(case, 1, TYPES[-1]))
    assert {choice.backend.name for choice in choices} - {"reference"}


def taken(
    op: str, arguments: Arguments, *, only: str = "", isas: bool = False
) -> Iterator[tuple[Contestant, list[torch.Tensor]]]:
    """Each contestant (or those of one backend) that takes a call, and its result out of guarded memory."""
    for contestant in contestants(op, isas):
        if only and contestant.backend != only:
            continue
        try:
            with forced(op, contestant), conformance.unchanged(arguments), conformance.guarded():
                found = result(op, arguments)
        except BackendError:
            continue
        yield contestant, found


@every_dtype
@every_kind
@pytest.mark.parametrize("layout", conformance.LAYOUTS)
def test_any_layout_is_declined_or_right(op: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    """Of all tensors together, and of each alone. Around them is NaN: what is read there shows in the result."""
    arguments = drawn(case, 2, dtype)
    judge = Judge(op, arguments)
    lay = conformance.LAYOUTS[layout]
    for backend in (None, "winograd", "onednn"):
        own = arguments if backend is None else prepared(op, arguments, backend)
        if backend is not None and own is arguments:
            continue
        tensors = {name: lay(tensor) for name, tensor in conformance.tensors_of(own).items()}
        for name in tensors if dtype == torch.float32 else ():
            call = {**own, name: tensors[name]}
            judge.check(result(op, call), f"the backend that is chosen, {name}")
            for contestant, found in taken(op, call):
                judge.check(found, f"{contestant}, {name}")
        call = {**own, **tensors}
        judge.check(result(op, call), "the backend that is chosen")
        for contestant, found in taken(op, call, isas=True):
            judge.check(found, contestant)


@every_dtype
@every_kind
def test_samples_that_share_memory(op: str, case: Case, dtype: torch.dtype) -> None:
    arguments = drawn(case, BATCH, dtype)
    for name, tensor in conformance.tensors_of(arguments).items():
        if tensor.shape[0] == BATCH:
            arguments[name] = tensor[:1].expand_as(tensor)
    judge = Judge(op, arguments)
    for contestant, found in taken(op, arguments):
        judge.check(found, contestant)


@every_dtype
@every_kind
def test_an_empty_batch(op: str, case: Case, dtype: torch.dtype) -> None:
    full = drawn(case, BATCH, dtype)
    arguments = conformance.empty_batch(full, BATCH)
    full |= dict.fromkeys(conformance.WRITTEN & full.keys())
    results = [conformance.without_samples(t, BATCH) for t in conformance.by_reference(op, full)]
    want = [(t.shape, t.dtype) for t in results]
    assert [(t.shape, t.dtype) for t in result(op, arguments)] == want
    for contestant, found in taken(op, arguments):
        assert [(t.shape, t.dtype) for t in found] == want, contestant


VALUES = {
    "large": lambda x: x * 2.0**3,
    "tiny": lambda x: x * 2.0**-20,
    "a large mean and a small variance": lambda x: x / 4 + 20,
    "all equal": lambda x: torch.full_like(x, 1.5),
    "zero": torch.zeros_like,
}


@every_dtype
@every_kind
@pytest.mark.parametrize("values", VALUES)
def test_extreme_values(op: str, case: Case, dtype: torch.dtype, values: str) -> None:
    arguments = drawn(case, 2, dtype)
    first = next(iter(conformance.tensors_of(arguments)))
    arguments[first] = VALUES[values](arguments[first])
    judge = Judge(op, arguments, hard=True)
    for backend in conformance.backends_of(op).names:
        if values.startswith("a large mean") and (op, backend) in WIDENS_MEANS:
            continue
        own = prepared(op, arguments, backend)
        for contestant, found in taken(op, own, only=backend, isas=True):
            judge.check(found, contestant)


@every_dtype
@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_comes_out_where_the_maths_puts_it(
    op: str, case: Case, dtype: torch.dtype, value: float
) -> None:
    """No fewer and no more, NaN in any tensor, infinities in pictures and tokens.

    (Of an infinite parameter it depends on the order of the arithmetic whether infinity or NaN comes out.) The reference in fp32
    is the measure: torch's own bf16 products let NaN spill on some processors.
    """
    plain = drawn(case, 2, dtype)
    for name, tensor in conformance.tensors_of(plain).items():
        an_activation = tensor.dim() >= 3
        if not tensor.is_floating_point() or (value == value and not an_activation):
            continue
        spoilt = tensor.clone(memory_format=torch.preserve_format)
        for place in conformance.two_places(tensor):
            spoilt[place] = value
        arguments = {**plain, name: spoilt}
        want = conformance.by_reference(op, conformance.wide(arguments, torch.float32))
        for backend in conformance.backends_of(op).names:
            if backend in OF_TORCH and dtype == torch.bfloat16:
                continue
            if (op, backend) in EMPTY_SOFTMAX and abs(value) == float("inf"):
                continue
            own = prepared(op, arguments, backend)
            for contestant, found in taken(op, own, only=backend, isas=an_activation):
                for got, wanted in zip(found, want, strict=True):
                    check_not_finite(op, contestant, name, got, wanted, half=dtype == torch.bfloat16)


def check_not_finite(
    op: str, by: Contestant, name: str, got: torch.Tensor, want: torch.Tensor, *, half: bool
) -> None:
    what = f"{by}, {name}"
    finite = want.isfinite()
    if (op, by.backend) in SPREADS:
        assert not bool((got.isfinite() & ~finite).any()), what
        finite = finite & got.isfinite()
    else:
        assert torch.equal(got.isnan(), want.isnan()), what
        assert torch.equal(got[want.isinf()].float(), want[want.isinf()]), what
        assert torch.equal(got.isfinite(), finite), what
    error = relative_error([got[finite]], [want[finite]])
    assert error <= (2.0**-5 if half else 1e-5), what


class Marked(torch.Tensor):
    """A subclass that does nothing but stay."""


ODD = {
    "negative": lambda x: torch._neg_view(-x),
    "imaginary part of a conjugate": lambda x: torch.complex(x.float(), -x.float()).conj().imag,
    "subclass": lambda x: x.as_subclass(Marked),
}


@every_kind
@pytest.mark.parametrize("odd", ODD)
def test_a_tensor_that_is_more_than_its_memory_is_declined(op: str, case: Case, odd: str) -> None:
    plain = drawn(case, 2, torch.float32)
    for name, tensor in conformance.tensors_of(plain).items():
        if not tensor.is_floating_point():
            continue
        for backend in conformance.backends_of(op).names:
            if backend in ("reference", "cudnn"):
                continue  # torch's operators know what the tensor is
            with forced(op, Contestant(backend)), pytest.raises(BackendError):
                result(op, {**prepared(op, plain, backend), name: ODD[odd](tensor)})


@every_kind
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_gradients_are_those_of_the_reference_or_declined(
    op: str, case: Case, dtype: torch.dtype, allowed: float
) -> None:
    plain = drawn(case, 1, dtype)
    names = [name for name, tensor in conformance.tensors_of(plain).items() if tensor.is_floating_point()]

    def gradients() -> list[torch.Tensor]:
        leaves = {name: plain[name].detach().clone().requires_grad_() for name in names}
        loss = sum(part.square().sum() for part in result(op, {**plain, **leaves}))
        return [
            g for g in torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if g is not None
        ]

    with forced(op, Contestant("reference")):
        want = gradients()
    for contestant in contestants(op):
        try:
            with forced(op, contestant):
                found = gradients()
        except BackendError as error:
            assert contestant.backend != "reference", error
            continue
        assert relative_error(found, want) <= allowed, contestant
    assert relative_error(gradients(), want) <= allowed, "the backend that is chosen"


def test_the_guard_sees_a_write_outside_and_a_value_that_was_never_written() -> None:
    """Otherwise the tests above could not fail."""
    with pytest.raises(AssertionError, match="outside"), conformance.guarded():
        made = torch.empty(4, 3)
        made.as_strided((13,), (1,), made.storage_offset()).fill_(1)
    with conformance.guarded():
        made = torch.empty(2, 3, 4, 4, memory_format=torch.channels_last)
        assert bool(made.isnan().all()) and made.is_contiguous(memory_format=torch.channels_last)
        assert bool(made.new_empty(3).isnan().all()) and bool(torch.empty_like(made).isnan().all())
    arguments: dict[str, Any] = {"x": conformance.LAYOUTS["a window of a larger tensor"](torch.ones(2, 3))}
    with pytest.raises(AssertionError, match="x was written"), conformance.unchanged(arguments):
        arguments["x"].as_strided((1,), (1,), 0).fill_(1)
