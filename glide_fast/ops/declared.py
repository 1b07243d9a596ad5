"""What follows from an op's record of arguments (its ``Call``): which of them are tensors, and the schema that torch wants."""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

import torch

_SCHEMA_TYPES: dict[Any, str] = {
    torch.Tensor: "Tensor",
    torch.Tensor | None: "Tensor?",
    int: "int",
    float: "float",
    bool: "bool",
    str | None: "str?",
    torch.dtype | None: "ScalarType?",
    tuple[int, int]: "int[2]",
}


@functools.cache
def arguments_of(call: type) -> dict[str, Any]:
    """The type of each argument of an op by name, in order: the fields of its record that are given when one is made."""
    types = typing.get_type_hints(call)
    return {field.name: types[field.name] for field in dataclasses.fields(call) if field.init}


def tensor_names(call: type) -> tuple[str, ...]:
    """The arguments that are tensors, or None in place of one."""
    return tuple(
        name for name, type_ in arguments_of(call).items() if type_ in (torch.Tensor, torch.Tensor | None)
    )


def schema(call: type, returns: str = "Tensor") -> str:
    """The signature of a custom op with these arguments, as ``(Tensor x, int heads, Tensor? bias=None) -> Tensor``.

    Raises:
        KeyError: for an argument of a type that is not among those above.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(call)}
    written = [
        f"{_SCHEMA_TYPES[type_]} {name}"
        + ("" if defaults[name] is dataclasses.MISSING else f"={defaults[name]}")
        for name, type_ in arguments_of(call).items()
    ]
    return f"({', '.join(written)}) -> {returns}"
