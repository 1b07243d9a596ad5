"""Checks of arguments, shared by the ops. Ops are called hundreds of times a step, so each takes only tens of nanoseconds."""

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


def tensors(names: Sequence[str], values: Sequence[object], needed: int) -> None:
    """Refuse values that are neither dense tensors nor None; the first ``needed`` must not be None."""
    strided, own = torch.strided, torch.Tensor
    for position, tensor in enumerate(values):
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
    for position, tensor in enumerate(values):
        if isinstance(tensor, torch.Tensor):
            if tensor.layout is torch.strided and not tensor.is_nested:
                continue
            raise invalid(names[position], _layout(tensor), "a dense tensor (of layout torch.strided)")
        if tensor is not None or position < needed:
            raise invalid(
                names[position], tensor, "a torch.Tensor" if position < needed else "a torch.Tensor or None"
            )


def _layout(tensor: torch.Tensor) -> str:
    return f"a nested tensor, {tensor.layout}" if tensor.is_nested else f"a tensor of layout {tensor.layout}"


def gradients(tensors: Sequence[torch.Tensor | None]) -> bool:
    """Whether autograd will differentiate a result that is computed from these tensors now."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def floating(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor of a type that ops do not compute with."""
    if tensor.dtype not in FLOATING:
        raise invalid(name, tensor.dtype, f"a tensor of {_NAMES}")


def any_floating(names: Sequence[str], tensors: Sequence[torch.Tensor | None]) -> None:
    """Refuse tensors that are not of a floating type. For biases and the like, which ops convert to fp32 from any such type."""
    for position, tensor in enumerate(tensors):
        if tensor is not None and not tensor.dtype.is_floating_point:
            raise invalid(names[position], tensor.dtype, "a tensor of a floating type")


def together(names: Sequence[str], tensors: Sequence[torch.Tensor | None], device: torch.device) -> None:
    """Refuse tensors that are not on ``device``, which is that of x."""
    for position, tensor in enumerate(tensors):
        if tensor is not None and tensor.device != device:
            raise invalid(names[position], f"a tensor on {tensor.device}", f"a tensor on {device}, beside x")


def is_integer(value: object) -> bool:
    """Whether ``value`` is an integer (Python's, numpy's or a symbolic one of torch), and not a bool."""
    if type(value) is int:
        return True
    return isinstance(value, int | numbers.Integral | torch.SymInt) and not isinstance(value, bool)


def as_int(value: int) -> int:
    """An integer of numpy as an int of Python, which torch and the kernels need; any other value unchanged."""
    return value if isinstance(value, int | torch.SymInt) else int(value)


def integer(name: str, value: object, least: int, most: int = MOST) -> None:
    """Refuse a value that is not an integer from ``least`` to ``most``."""
    if not is_integer(value) or not least <= value <= most:  # type: ignore[operator]
        raise invalid(name, value, f"an integer from {least} to {most}")


def number(name: str, value: object, accepted: str = "a number") -> float:
    """The value as a float; refuse one that is not a number, or too large for a float."""
    if type(value) is float:
        return value
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise invalid(name, value, accepted)


def epsilon(name: str, value: object) -> float:
    """The value as a float; refuse one that is negative or not finite, and so cannot be added to a variance."""
    accepted = "a finite number >= 0"
    found = number(name, value, accepted)
    if not 0 <= found < math.inf:
        raise invalid(name, value, accepted)
    return found


def flag(name: str, value: object) -> None:
    """Refuse a value that is neither True nor False."""
    if value is not True and value is not False:
        raise invalid(name, value, "True or False")


def overlapping(name: str, tensor: torch.Tensor) -> InvalidInputError | None:
    """The error for an output tensor whose elements share memory (a stride of 0); None where they do not."""
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        return invalid(
            name, f"strides {tensor.stride()}", "a tensor whose elements each have memory of their own"
        )
    return None
