"""Checks of single arguments; each raises InvalidInputError naming the argument it refuses."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from glide_fast.errors import invalid


def require_integer(argument: str, value: object, low: int, high: int | None = None, *, why: str = "") -> int:
    """``value`` as an int from ``low`` to ``high``, both included; ``why`` explains the upper end."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if low <= number and (high is None or number <= high):
            return number
    accepted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}{why}"
    raise invalid(argument, value, accepted)


LARGEST = 1e6
"""No factor on what a network gives is greater: the loops compute in fp32, where products of greater ones are infinite."""


def require_number(argument: str, value: object, low: float, high: float = LARGEST) -> float:
    """``value`` as a float from ``low`` to ``high``, both included."""
    # Compared before it is converted: an int may be too large for a float.
    number: Any = value
    if isinstance(value, Real) and not isinstance(value, bool) and low <= number <= high:
        return float(number)
    raise invalid(argument, value, f"a number from {low:g} to {high:,.15g}")


def require_choice(argument: str, value: object, choices: tuple[str, ...]) -> str:
    """``value`` if it is one of ``choices``."""
    if isinstance(value, str) and value in choices:
        return value
    raise invalid(argument, value, "one of " + ", ".join(map(repr, choices)))


def require_flag(argument: str, value: object) -> bool:
    """``value`` if it is True or False."""
    if isinstance(value, bool):
        return value
    raise invalid(argument, value, "True or False")


def require_strength(argument: str, value: object) -> float:
    """``value`` as a share of a process to run, above 0 and up to 1."""
    strength = require_number(argument, value, 0, 1)
    if strength == 0:
        raise invalid(argument, value, "a number above 0 and up to 1; at 0 nothing would change")
    return strength
