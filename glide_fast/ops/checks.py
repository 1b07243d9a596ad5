"""Checks that the ops' arguments share. Each costs some tens of nanoseconds: ops are called hundreds of times a step."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch

from glide_fast.errors import InvalidInputError, invalid

FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""The types that ops compute with."""

_NAMES = "float16, bfloat16, float32 or float64"
MOST = 2**31 - 1
"""The largest whole number that the ops take where nothing else bounds it."""


def tensors(names: Sequence[str], given: Sequence[object], needed: int) -> None:
    """Refuse what is no dense tensor; the first ``needed`` may not be None either."""
    strided, own = torch.strided, torch.Tensor
    for position, tensor in enumerate(given):
        if tensor is None:
            if position < needed:
                break
        elif (
            (type(tensor) is not own and not isinstance(tensor, torch.Tensor))
            or tensor.layout is not strided
            or tensor.is_nested
        ):
            break
    else:
        return
    for position, tensor in enumerate(given):
        if isinstance(tensor, torch.Tensor):
            if tensor.layout is torch.strided and not tensor.is_nested:
                continue
            raise invalid(names[position], _kind(tensor), "a dense tensor (of layout torch.strided)")
        if tensor is not None or position < needed:
            raise invalid(
                names[position], tensor, "a torch.Tensor" if position < needed else "a torch.Tensor or None"
            )


def _kind(tensor: torch.Tensor) -> str:
    return f"a nested tensor, {tensor.layout}" if tensor.is_nested else f"a tensor of layout {tensor.layout}"


def gradients(given: Sequence[torch.Tensor | None]) -> bool:
    """Whether autograd is to differentiate a result of these tensors."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in given)


def floating(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor of a type that ops do not compute with."""
    if tensor.dtype not in FLOATING:
        raise invalid(name, tensor.dtype, f"a tensor of {_NAMES}")


def any_floating(names: Sequence[str], given: Sequence[torch.Tensor | None]) -> None:
    """Refuse parameters that are no real numbers; they are read in fp32, from any floating type."""
    for position, tensor in enumerate(given):
        if tensor is not None and not tensor.dtype.is_floating_point:
            raise invalid(names[position], tensor.dtype, "a tensor of a floating type")


def together(names: Sequence[str], given: Sequence[torch.Tensor | None], device: torch.device) -> None:
    """Refuse tensors on other devices than x's."""
    for position, tensor in enumerate(given):
        if tensor is not None and tensor.device != device:
            raise invalid(names[position], f"a tensor on {tensor.device}", f"a tensor on {device}, beside x")


def is_integer(value: object) -> bool:
    """Whether it is a whole number, of Python, numpy or a trace, and no truth value."""
    if type(value) is int:
        return True
    return isinstance(value, int | numbers.Integral | torch.SymInt) and not isinstance(value, bool)


def as_int(value: int) -> int:
    """A whole number of numpy as one of Python, which torch and the kernels want; others as they are."""
    return value if isinstance(value, int | torch.SymInt) else int(value)


def integer(name: str, value: object, least: int, most: int = MOST) -> None:
    """Refuse what is no whole number from ``least`` to ``most``."""
    if not is_integer(value) or not least <= value <= most:  # type: ignore[operator]
        raise invalid(name, value, f"an integer from {least} to {most}")


def number(name: str, value: object, accepted: str = "a number") -> float:
    """The value as a float; refuse what is none, or too large for one."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise invalid(name, value, accepted)


def epsilon(name: str, value: object) -> float:
    """The value as a float; refuse what cannot be added to a variance."""
    accepted = "a finite number >= 0"
    found = number(name, value, accepted)
    if not 0 <= found < math.inf:
        raise invalid(name, value, accepted)
    return found


def flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if value is not True and value is not False:
        raise invalid(name, value, "True or False")


def overlapping(name: str, tensor: torch.Tensor) -> InvalidInputError | None:
    """The error for a result whose elements share memory; None where each has its own."""
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        return invalid(
            name, f"strides {tensor.stride()}", "a tensor whose elements each have memory of their own"
        )
    return None
