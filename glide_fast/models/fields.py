"""What the values of a configuration may be, one by one: a type and a range each, with words for people."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glide_fast.errors import InvalidInputError, invalid


@dataclass(frozen=True)
class Field:
    """accepts: whether a value, of any type, is one of the field's. accepted: which are, in words."""

    accepts: Callable[[Any], bool]
    accepted: str

    def check(self, name: str, value: object) -> None:
        """InvalidInputError naming the field and the value, unless it is one that the field accepts."""
        if self.accepts(value):
            return
        if isinstance(
            value, (Mapping, list, tuple, set)
        ):  # which may be long, and hold itself many times over
            raise InvalidInputError(f"{name}: got {reprlib.repr(value)}; accepted: {self.accepted}")
        raise invalid(name, value, self.accepted)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


def whole(low: int, high: int, *others: int) -> Field:
    """An integer from ``low`` to ``high``, or one of ``others``."""
    words = "".join(f", or {other}" for other in others)
    return Field(
        lambda value: _is_whole(value) and (low <= value <= high or value in others),
        f"an integer from {low} to {high:,}{words}",
    )


def number(low: float, high: float, *, above: bool = False) -> Field:
    """A number from ``low`` (or only ``above`` it) to ``high``; NaN is none."""
    return Field(
        lambda value: _is_number(value) and low <= value <= high and not (above and value == low),
        f"a number {'above' if above else 'from'} {low:g} to {high:g}",
    )


def flag() -> Field:
    """True or False; no other value counts as either."""
    return Field(lambda value: isinstance(value, bool), "true or false")


def choice(*words: str) -> Field:
    """One of some words."""
    return Field(
        lambda value: isinstance(value, str) and value in words, "one of " + ", ".join(map(repr, words))
    )


def text(longest: int, example: str) -> Field:
    """Text of at most ``longest`` characters."""
    return Field(
        lambda value: isinstance(value, str) and len(value) <= longest,
        f"text of at most {longest} characters, {example}",
    )


def list_of(item: Field, longest: int) -> Field:
    """A list of at most ``longest`` items."""
    return Field(
        lambda value: (
            isinstance(value, (list, tuple)) and len(value) <= longest and all(map(item.accepts, value))
        ),
        f"a list of at most {longest}, each {item.accepted}",
    )


def either(first: Field, second: Field) -> Field:
    """What one of two fields accepts."""
    return Field(
        lambda value: first.accepts(value) or second.accepts(value), f"{first.accepted}, or {second.accepted}"
    )


def check_fields(fields: Mapping[str, Field], values: Mapping[str, Any]) -> None:
    """Check those of ``fields`` that ``values`` has; InvalidInputError naming the first that is off."""
    for name, field in fields.items():
        if name in values:
            field.check(name, values[name])
