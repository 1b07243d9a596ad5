"""An op's arguments, and torch's schema of them, read from the dataclass ``arguments.Call``, the only declaration of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

_TORCH = {
    "torch.Tensor": "Tensor",
    "torch.Tensor | None": "Tensor?",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
    "str | None": "str?",
    "torch.dtype | None": "ScalarType?",
    "tuple[int, int]": "int[2]",
    "int | Sequence[int]": "int[2]",
    "int | Sequence[int] | None": "int[2]?",
}
"""The annotation of a field, as written, and its type in an operator's schema."""


def arguments(call: type) -> tuple[str, ...]:
    """The names of the arguments, in the order of the fields, without fields that are computed from others."""
    return tuple(field.name for field in dataclasses.fields(call) if field.init)


def tensors(call: type) -> tuple[str, ...]:
    """The names of the arguments that are, or may be, tensors."""
    return tuple(
        field.name for field in dataclasses.fields(call) if field.init and "torch.Tensor" in str(field.type)
    )


def options(call: type) -> tuple[str, ...]:
    """The names of the arguments that are never tensors."""
    named = tensors(call)
    return tuple(name for name in arguments(call) if name not in named)


def of_operator(
    call: type, *, without: Collection[str] = (), replaced: Mapping[str, str] | None = None
) -> str:
    """The arguments as ``torch.library`` reads them in a schema, such as ``Tensor x, Tensor? bias, int groups``.

    Args:
        call: a dataclass whose annotations are strings (``from __future__ import annotations``).
        without: arguments to leave out.
        replaced: the text in the schema for arguments whose type torch does not know, or that the operator writes to.

    Raises:
        KeyError: for an argument whose annotation this module does not know.
    """
    types, special = {field.name: str(field.type) for field in dataclasses.fields(call)}, replaced or {}
    return ", ".join(
        special[name] if name in special else f"{_TORCH[types[name]]} {name}"
        for name in arguments(call)
        if name not in without
    )
