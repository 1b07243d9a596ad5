"""A call of an op as something to compare: its results as tensors, and the same call in fp64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from glide_fast.ops.convolution.packed_weight import PackedWeight

WRITTEN = ("out", "inputs", "out_dtype")
"""Arguments that say where and in which type results are written; fp64 results go elsewhere."""


def results(result: torch.Tensor | Iterable[torch.Tensor | None]) -> list[torch.Tensor]:
    """The tensors of an op's result."""
    parts = [result] if isinstance(result, torch.Tensor) else result
    return [part for part in parts if part is not None]


def widened(value: Any) -> Any:
    """An argument, a record or a mapping of arguments in fp64, weights unpacked, without memory for the results."""
    if isinstance(value, PackedWeight):
        value = value.dense()
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return type(value)(**widened({name: getattr(value, name) for name in fields}))
    if isinstance(value, tuple):
        return tuple(widened(part) for part in value)
    if isinstance(value, dict):
        return {name: None if name in WRITTEN else widened(part) for name, part in value.items()}
    return value
