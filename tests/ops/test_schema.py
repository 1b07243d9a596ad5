"""What is read from the dataclass of an op's arguments: names, the tensors among them, and the schema of its operator."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from glide_fast.ops import schema


@dataclass
class Call:
    x: torch.Tensor
    count: int
    bias: torch.Tensor | None = None
    dtype: torch.dtype | None = None
    scale: float | torch.Tensor | None = None
    window: tuple[int, int] = (1, 1)
    rows: int = field(init=False)


def test_names_are_those_of_the_fields_that_are_given() -> None:
    assert schema.arguments(Call) == ("x", "count", "bias", "dtype", "scale", "window")
    assert schema.tensors(Call) == ("x", "bias", "scale")
    assert schema.options(Call) == ("count", "dtype", "window")


def test_a_schema_has_torchs_names_for_types() -> None:
    text = schema.of_operator(
        Call, without=("count",), replaced={"scale": "float? scale, Tensor(a!)? scales"}
    )
    assert text == (
        "Tensor x, Tensor? bias, ScalarType? dtype, float? scale, Tensor(a!)? scales, int[2] window"
    )
    torch._C.parse_schema(f"glide_fast::test({text}) -> Tensor")
    with pytest.raises(KeyError, match="float"):
        schema.of_operator(Call)


@pytest.mark.parametrize("op", ["group_norm_act", "guided_step", "resample"])
def test_a_call_has_the_arguments_of_the_public_function(op: str) -> None:
    function: Any = getattr(importlib.import_module("glide_fast.ops"), op)
    parameters = inspect.signature(function).parameters
    call = importlib.import_module(f"glide_fast.ops.{op}.arguments").Call
    assert set(schema.arguments(call)) == set(parameters)
    defaults = inspect.signature(call).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        name: p.default for name, p in defaults.items()
    }
