"""What an op's ``arguments.Call`` says of its arguments, read from the dataclass so that they are declared there alone."""

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
"""A field's annotation, as written, and the type that an operator's schema has for it."""


def arguments(call: type) -> tuple[str, ...]:
    """The names of the arguments, in the order of the fields; not of fields that are computed from others."""
    return tuple(field.name for field in dataclasses.fields(call) if field.init)


def tensors(call: type) -> tuple[str, ...]:
    """The names of those arguments that are tensors, or may be."""
    return tuple(
        field.name for field in dataclasses.fields(call) if field.init and "torch.Tensor" in str(field.type)
    )


def options(call: type) -> tuple[str, ...]:
    """The names of the other arguments."""
    named = tensors(call)
    return tuple(name for name in arguments(call) if name not in named)


def of_operator(
    call: type, *, without: Collection[str] = (), replaced: Mapping[str, str] | None = None
) -> str:
    """The arguments as ``torch.library`` reads them in a schema, such as ``Tensor x, Tensor? bias, int groups``.

    Args:
        call: a dataclass whose annotations are strings (``from __future__ import annotations``).
        without: arguments to leave out.
        replaced: what stands in the schema for arguments of a type that torch has not, or that the operator writes to.

    Raises:
        KeyError: an argument's type has none of torch's beside it in this module.
    """
    types, special = {field.name: str(field.type) for field in dataclasses.fields(call)}, replaced or {}
    return ", ".join(
        special[name] if name in special else f"{_TORCH[types[name]]} {name}"
        for name in arguments(call)
        if name not in without
    )
