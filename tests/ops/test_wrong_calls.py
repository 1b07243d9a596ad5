"""Random wrong calls of every public op end in an error that names the argument, or in a result: never in torch's own errors."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from support import steps

from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.ops import (
    convolution,
    group_norm_act,
    guided_step,
    masked_attention,
    output_convolution,
    resample,
    text_attention,
    window_convolution,
)
from glide_fast.ops.backends import force
from glide_fast.ops.guided_step import Step
from glide_fast.ops.upsampled_convolution import upsampled_convolution
from glide_fast.ops.upsampled_convolution.places import place_weights

CALLS = 400


def right() -> dict[Callable[..., Any], dict[str, Any]]:
    """A right call of each op."""
    x, kernel = torch.randn(2, 16, 4, 4).to(memory_format=torch.channels_last), torch.randn(4, 16, 3, 3)
    tokens = torch.randn(2, 8, 32)
    return {
        group_norm_act: {
            "x": x, "weight": torch.randn(16), "bias": torch.randn(16), "groups": 4, "eps": 1e-5, "scale": torch.randn(2, 16),
            "shift": torch.randn(2, 16), "silu": True, "x2": None, "residual": x.clone(), "x_bias": torch.randn(16),
            "keep_sum": False, "resample": None, "out_dtype": None, "windows": False,
        },
        text_attention: {"qkv": torch.randn(2, 8, 96).mT, "heads": 1, "encoder_kv": torch.randn(2, 5, 64).mT},
        masked_attention: {
            "q": tokens, "k": tokens, "v": tokens, "heads": 1, "causal": True, "lengths": torch.tensor([3, 8]),
        },
        resample: {"x": x, "mode": "mean_2x2", "bias": torch.randn(16), "residual": x.clone()},
        convolution: {
            "x": x, "weight": kernel, "bias": torch.randn(4), "residual": torch.randn(2, 4, 4, 4), "stride": 1, "padding": 1,
        },
        window_convolution: {
            "windows": torch.randn(2, 3, 4, 9, 16), "weight": kernel.to(memory_format=torch.channels_last),
            "bias": torch.randn(4), "residual": torch.randn(2, 4, 3, 4).to(memory_format=torch.channels_last),
        },
        output_convolution: {"x": x, "weight": kernel, "bias": torch.randn(4)},
        upsampled_convolution: {"x": x, "weights": place_weights(kernel), "bias": torch.randn(16)},
        place_weights: {"weight": kernel},
        guided_step: {
            **steps.arguments((2, 3, 4, 4), rule="plms", known=True, score=True),
            "clip": True, "inputs": torch.zeros(4, 3, 4, 4), "out": None,
        },
    }  # fmt: skip


VALUES: list[Any] = [
    *(None, "no", "nearest_x2", 0, 1, 3, -1, 0.5, -1.0, 1e308, math.nan, math.inf, 2**31, 2**64, 10**400),
    *(
        [],
        [1],
        (1, 2),
        (0, 0),
        [1.5, 2],
        ["a", "b"],
        {},
        object(),
        1j,
        True,
        False,
        torch.int8,
        torch.float64,
    ),
    *(np.ones(3), np.float32(1), np.int64(2), np.bool_(True), (1, 2, 3), Step(1, 2, 3)),  # type: ignore[arg-type]
    Step(torch.zeros(1, 3, 4, 4).expand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(3, 2, 3, 4, 4)),
]
TENSORS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    *(lambda t, d=d: t.to(d) for d in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float16)),
    *(lambda t, d=d: t.to(d) for d in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64)),
    *(lambda t: t.to_sparse(), lambda t: t.flatten(1).to_sparse_csr(), lambda t: t.float().to_mkldnn()),
    *(lambda t: torch.nested.nested_tensor(list(t)), lambda t: t.to("meta"), lambda t: t[:0], lambda t: t[None]),
    *(lambda t: t[0], lambda t: torch.cat([t, t]), lambda t: torch.cat([t, t], -1), lambda t: t[:1].expand_as(t)),
    *(lambda t: t.narrow(-1, 0, 0), lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    *(torch._neg_view, lambda t: t.detach().clone().requires_grad_(), lambda t: t * math.inf),
    *(lambda t: torch.tensor(1.0), lambda t: t.transpose(0, -1)),
]  # fmt: skip


def wrong(value: object, draw: random.Random) -> Any:
    if isinstance(value, torch.Tensor) and draw.random() < 0.75:
        try:
            return draw.choice(TENSORS)(value)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return draw.choice(VALUES)  # this tensor cannot be made so
    return draw.choice(VALUES)


@pytest.mark.parametrize("op", right(), ids=lambda op: op.__name__)
def test_every_error_names_the_argument(op: Callable[..., Any]) -> None:
    draw = random.Random(7)
    refused = 0
    for _ in range(CALLS):
        arguments = right_again(op)
        names = draw.sample(list(arguments), min(len(arguments), draw.choice([1, 1, 2])))
        arguments |= {name: wrong(arguments[name], draw) for name in names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                op(**arguments)
            except InvalidInputError as error:
                assert "; accepted: " in str(error)
                refused += 1
            except BackendError:
                refused += 1
            except Exception as error:
                given = {name: repr(arguments[name])[:80] for name in names}
                raise AssertionError(f"{type(error).__name__} for {given}: {error}") from error
    assert refused > CALLS // 3


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("number", [Fraction(3, 2), 10**30, np.float32(0.5), np.int64(2)], ids=repr)
def test_numbers_of_every_sort_are_those_they_stand_for(number: Any, backend: str | None) -> None:
    with force(backend) if backend else nullcontext():
        normed = [group_norm_act(**right_again(group_norm_act) | {"eps": e}) for e in (number, float(number))]
        guided = [guided_step(**steps.arguments() | {"guidance_scale": s}).x for s in (number, float(number))]
    for got, want in (normed, guided):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def right_again(op: Callable[..., Any]) -> dict[str, Any]:
    """Fresh copies: an op may write to some."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in RIGHT[op].items()
    }


RIGHT = right()
