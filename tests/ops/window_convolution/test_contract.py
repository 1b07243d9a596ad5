"""window_convolution: the convolution that it stands for, its sums, and what is refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.ops import exact_sums, group_norm_act, window_convolution
from glide_fast.ops.backends import force
from glide_fast.ops.case import ROUNDING, allowed_error, relative_error
from glide_fast.ops.group_norm_act.reference import windows as windows_of
from glide_fast.ops.window_convolution.traced import NODE


def operands(
    n: int = 2, inputs: int = 8, outputs: int = 6, height: int = 3, width: int = 4, seed: int = 0
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        return values.to(memory_format=torch.channels_last) if len(size) == 4 else values

    return {
        "x": normal(n, inputs, height, width),
        "weight": normal(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5,
        "bias": normal(outputs),
        "residual": normal(n, outputs, height, width),
    }


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 3),
    inputs=st.integers(1, 20),
    outputs=st.integers(1, 20),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    bias=st.booleans(),
    residual=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    backend=st.sampled_from([None, "matmul", "reference"]),
)
def test_it_is_the_convolution_of_the_picture(
    n: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    bias: bool,
    residual: bool,
    dtype: torch.dtype,
    backend: str | None,
) -> None:
    a = {name: t.to(dtype) for name, t in operands(n, inputs, outputs, height, width).items()}
    wide = {name: t.double() for name, t in a.items()}
    truth = F.conv2d(wide["x"], wide["weight"], wide["bias"] if bias else None, padding=1)
    truth = truth + wide["residual"] if residual else truth
    plain = F.conv2d(a["x"], a["weight"], a["bias"] if bias else None, padding=1)
    plain = plain + a["residual"] if residual else plain
    with force(window_convolution=backend) if backend else force():
        y = window_convolution(
            windows_of(a["x"]),
            a["weight"],
            a["bias"] if bias else None,
            residual=a["residual"] if residual else None,
        )
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    error = relative_error([y], [truth])
    # Of a single value plain torch may be right by luck.
    assert error <= allowed_error(max(relative_error([plain], [truth]), ROUNDING[dtype]), dtype)


def test_behind_the_norm_it_is_the_block_of_the_network() -> None:
    a = {name: t.float() for name, t in operands(inputs=12).items()}
    weight, bias = torch.ones(12), torch.zeros(12)
    y = group_norm_act(a["x"], weight, bias, 3, silu=True)
    windows = group_norm_act(a["x"], weight, bias, 3, silu=True, windows=True)
    got = window_convolution(windows, a["weight"], a["bias"], residual=a["residual"])
    torch.testing.assert_close(got, F.conv2d(y, a["weight"], a["bias"], padding=1) + a["residual"])


def test_half_precision_on_a_cpu_is_the_references() -> None:
    a = {name: t.half() for name, t in operands().items()}
    y = window_convolution(windows_of(a["x"]), a["weight"])
    truth = F.conv2d(a["x"].double(), a["weight"].double(), padding=1)
    assert y.dtype == torch.float16 and relative_error([y], [truth]) <= allowed_error(0.0, torch.float16)


def test_the_operator_keeps_its_promises() -> None:
    a = {name: t.float() for name, t in operands().items()}
    call = [windows_of(a["x"]), a["weight"], a["bias"], a["residual"]]
    call = [t.detach().clone().requires_grad_() for t in call]
    torch.library.opcheck(NODE.operator, tuple(call))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"windows": torch.zeros(2, 3, 4, 8, 8)}, "windows"),
        ({"windows": torch.zeros(2, 8, 3, 4)}, "windows"),
        ({"weight": torch.zeros(6, 8, 1, 1)}, "weight"),
        ({"weight": torch.zeros(6, 7, 3, 3)}, "weight"),
        ({"weight": torch.zeros(6, 8, 3, 3).half()}, "windows, weight"),
        ({"bias": torch.zeros(8)}, "bias"),
        ({"bias": torch.zeros(6).half()}, "bias"),
        ({"residual": torch.zeros(2, 6, 4, 3)}, "residual"),
        ({"residual": torch.zeros(2, 6, 3, 4).double()}, "residual"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], argument: str) -> None:
    a = {name: t.float() for name, t in operands().items()}
    good = {"windows": windows_of(a.pop("x")), **a}
    window_convolution(**good)
    with pytest.raises(InvalidInputError, match=rf"^{argument}: got .*; accepted: "):
        window_convolution(**{**good, **change})


def test_settings_of_matrix_products_hold_in_the_block_alone() -> None:
    """Also where two threads are in it, and one leaves before the other; what a caller has forbidden stays forbidden."""
    settings_of_torch = torch.backends.cuda.matmul
    names = exact_sums.SETTINGS
    before = {name: getattr(settings_of_torch, name) for name in names}
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exact_sums._exact():
            entered.set()
            leave.wait(10)

    try:
        settings_of_torch.allow_fp16_reduced_precision_reduction = True
        settings_of_torch.allow_bf16_reduced_precision_reduction = (False, False)
        settings_of_torch.allow_fp16_accumulation = True
        thread = threading.Thread(target=hold)
        with exact_sums._exact():
            thread.start()
            entered.wait(10)
            assert not any(getattr(settings_of_torch, name) for name in names)
        assert not any(getattr(settings_of_torch, name) for name in names)
        leave.set()
        thread.join()
        assert settings_of_torch.allow_fp16_reduced_precision_reduction
        assert settings_of_torch.allow_fp16_accumulation
        assert not settings_of_torch.allow_bf16_reduced_precision_reduction
        assert not settings_of_torch.allow_bf16_reduced_precision_reduction_split_k
    finally:
        leave.set()
        settings_of_torch.allow_bf16_reduced_precision_reduction = (False, True)
        for name, value in before.items():
            setattr(settings_of_torch, name, value)
