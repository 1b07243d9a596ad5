"""Comparing calls of ops: a call's results as a list of tensors, and the same call in fp64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from glide_fast.ops.convolution.packed_weight import PackedWeight

WRITTEN = ("out", "inputs", "out_dtype")
"""Arguments that name the memory or the type for results; a call in fp64 must not have them."""


def results(result: torch.Tensor | Iterable[torch.Tensor | None]) -> list[torch.Tensor]:
    """The tensors of an op's result."""
    parts = [result] if isinstance(result, torch.Tensor) else result
    return [part for part in parts if part is not None]


def elsewhere(value: Any) -> Any:
    """Other memory for the same tensor, or for those of a record; anything else as it is."""
    if isinstance(value, tuple):
        return type(value)(*map(elsewhere, value))
    return torch.empty_like(value) if isinstance(value, torch.Tensor) else value


def widened(value: Any) -> Any:
    """An argument, or a record or mapping of arguments, in fp64: weights are unpacked, arguments in :data:`WRITTEN` are None."""
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
