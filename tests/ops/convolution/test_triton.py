"""When convolution's Triton backend declines; what its kernels compute is in check_triton.py."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from glide_fast.errors import BackendError
from glide_fast.ops import convolution
from glide_fast.ops.backends import force
from glide_fast.ops.convolution import triton as convolution_triton
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight

op = importlib.import_module("glide_fast.ops.convolution")


def operands(dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    x = torch.zeros(1, 16, 4, 6, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.zeros(8, 16, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    return {"x": x, "weight": weight, "bias": torch.zeros(8)}


def test_on_a_cpu_it_declines_even_where_it_is_forced() -> None:
    with force(convolution="triton"), pytest.raises(BackendError, match="not on a CUDA device"):
        convolution(**operands())


def test_it_is_off_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution_triton.triton_runtime, "why_not", lambda *_: None)
    facts = Call(**operands()).facts()
    assert convolution_triton.supports(facts) is None
    for forced, expected in (("reference", convolution_triton.UNMEASURED), ("triton", None)):
        with force(convolution=forced):
            verdicts = {v.backend: v for v in op.OP.explain(facts).verdicts}
        assert verdicts["triton"].reason == expected
        assert verdicts["triton"].chosen == (forced == "triton")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (operands(torch.float32), "float16 and bfloat16"),
        ({"x": operands()["x"].requires_grad_()}, "gradients are wanted"),
        ({"x": operands()["x"][:0]}, "no elements"),
        ({"weight": PackedWeight.pack(operands(torch.float32)["weight"], input_shape=(1, 16, 4, 6))}, "packed"),
    ],
    ids=["fp32", "gradients", "empty", "packed"],
)  # fmt: skip
def test_it_declines_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(convolution_triton.supports(Call(**(operands() | change)).facts()))
