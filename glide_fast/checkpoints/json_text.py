"""JSON out of files that anyone may have written: strict, and bounded in depth."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_BYTES = 1_000_000
"""What a configuration file may hold; those written here have about a thousand."""

MAX_DEPTH = 32
"""Objects and lists within each other."""


def parse_json(content: bytes, *, depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON document in UTF-8.

    Raises ValueError, besides for bad syntax, for names that occur twice in an object, for NaN and infinities, and
    for values nested more than `depth` deep.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise _too_deep(depth) from None
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise _too_deep(depth)
    return value


def _too_deep(depth: int) -> ValueError:
    return ValueError(f"values are nested more than {depth} deep")


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the name {name!r} occurs twice in an object")
        values[name] = value
    return values


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value
