"""Every plan that a Triton backend offers for a call is right, and none that it does not offer is taken.

tests/ops/test_triton.py runs this in a process of its own. Shapes are small, and none of the tiles divides them.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from support.triton_device import DEVICE

from glide_fast.ops.backends import ops
from glide_fast.ops.case import allowed_error, cases_of, relative_error
from glide_fast.ops.guided_step import Column, Step

importlib.import_module("glide_fast.ops")
HALF = torch.float16


def normal(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(DEVICE, dtype)


def pixels(*shape: int) -> torch.Tensor:
    return normal(*shape).to(memory_format=torch.channels_last)


def packed(*shape: int) -> torch.Tensor:
    return normal(*shape).transpose(1, 2)


def step() -> dict[str, Any]:
    x = normal(2, 3, 5, 7, dtype=torch.float32)
    table = torch.zeros(2, Column.COUNT, device=DEVICE)
    table[:, Column.SQRT_RECIP] = table[:, Column.X0] = table[:, Column.NOISE] = 1.0
    return {
        "x": x,
        "model_out": normal(2, 6, 5, 7, dtype=torch.float32),
        "table": table,
        "step": torch.ones(2, dtype=torch.long, device=DEVICE),
        "seeds": torch.arange(2, device=DEVICE),
        "out": Step(torch.zeros_like(x), torch.zeros_like(x), None),
    }


CALLS: dict[str, Any] = {
    "text_attention": lambda: {"qkv": packed(1, 70, 48), "heads": 1, "encoder_kv": packed(1, 5, 32)},
    "masked_attention": lambda: {
        **{name: normal(1, 70, 16) for name in ("q", "k", "v")},
        "heads": 1,
        "causal": True,
        "lengths": torch.tensor([67], device=DEVICE),
    },
    "convolution": lambda: {
        "x": pixels(1, 24, 3, 5),
        "weight": pixels(24, 24, 3, 3) / 15,
        "bias": normal(24),
        "residual": pixels(1, 24, 3, 5),
    },
    "convolution from many": lambda: {"x": pixels(1, 128, 3, 5), "weight": pixels(24, 128, 3, 3) / 34},
    "convolution to few": lambda: {"x": pixels(1, 24, 3, 5), "weight": pixels(6, 24, 3, 3) / 15},
    "group_norm_act": lambda: {
        "x": pixels(1, 96, 7, 5),
        "weight": normal(96, dtype=torch.float32),
        "bias": normal(96, dtype=torch.float32),
        "groups": 8,
        "silu": True,
    },
    "resample": lambda: {"x": pixels(1, 128, 3, 5), "mode": "nearest_x2", "bias": normal(128)},
    "guided_step": step,
}


@pytest.mark.parametrize("name", CALLS)
def test_every_plan_is_right(name: str) -> None:
    op = name.split(" ")[0]
    arguments = importlib.import_module(f"glide_fast.ops.{op}.arguments")
    backend, given = ops()[op].backend("triton"), CALLS[name]()
    call = arguments.Call(**given)
    arguments.check_arguments(call)
    assert backend.supports(call.facts()) is None and backend.plans is not None
    plans = list(backend.plans(call))
    assert len(plans) > 3 and len({str(plan) for plan in plans}) == len(plans)

    def tensors(result: Any) -> list[torch.Tensor]:
        parts = [result] if isinstance(result, torch.Tensor) else result
        return [part.clone() for part in parts if part is not None]

    truth = tensors(ops()[op].backend("reference").run(call))
    own = tensors(backend.run(call))
    dtype = truth[0].dtype
    allowed = allowed_error(2.0**-10 if dtype == HALF else 0.0, dtype, max(cases_of(op).FLOOR, 1e-6))
    for plan in plans:
        if name == "convolution from many" and plan["inputs"] != 128:
            continue  # as for fewer
        found = tensors(backend.run(call, plan=plan))
        assert relative_error(found, truth) <= allowed, plan
        if plan is plans[0]:
            assert all(torch.equal(a, b) for a, b in zip(found, own, strict=True))
    first = plans[0]
    for wrong in (
        {},
        {**first, "more": 1},
        dict.fromkeys(first, 3),
        dict.fromkeys(first, True),
        dict.fromkeys(first, "64"),
    ):
        with pytest.raises(ValueError, match="plan: got "):
            backend.run(call, plan=wrong)
