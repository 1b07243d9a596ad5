"""A call of an op in one line of text that says all that decides how long it takes, and nothing else.

``x float16 2x192x64x64 channels-last, weight float32 192, bias float32 192, groups 32, scale float32 2x192 gaps, silu``: every
tensor with its type, its sizes and how it lies in memory, and every option. Left out are values that no kernel's time depends on:
numbers with a fraction (``eps``, a guidance scale), a stream of random numbers, and how far apart the rows of a tensor with gaps
are. Two calls with the same line take the same time.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

FREE = ("eps", "stream")
"""Options whose value decides no call's time."""
UNSIZED = ("table",)
"""Tensors whose sizes decide no call's time: a row of a sampler's table is read, however many there are."""
PACKED = "packed"
"""How a weight lies that the op keeps in a layout of its own (:class:`~glide_fast.ops.convolution.packed_weight.PackedWeight`):
each backend is measured with the layout that it reads."""
_VECTOR = 16  # bytes of the widest load of a thread


def signature(call: Any) -> str:
    """The line of a call (an op's ``arguments.Call`` whose arguments have been checked)."""
    return ", ".join(parts(call))


def parts(call: Any) -> Iterator[str]:
    """The same, argument by argument."""
    names = sys.modules[type(call).__module__].TENSORS
    for name, tensor in zip(names, call.tensors, strict=True):
        if tensor is not None:
            yield tensor_part(name, tensor)
    fields = _options(type(call))  # type: ignore[arg-type]
    for name in fields:
        if (text := option_part(name, getattr(call, name))) is not None:
            yield text
    for name in names:  # a number where a tensor may stand
        if isinstance(getattr(call, name, None), (int, float)):
            yield f"{name} number"


def tensor_part(name: str, tensor: torch.Tensor, layout: str | None = None) -> str:
    """One tensor, such as ``x float16 2x192x64x64 channels-last``; ``layout`` in place of its own."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if name in UNSIZED:
        return f"{name} {kind}"
    sizes = "x".join(map(str, tensor.shape)) or "number"
    how = layout_of(tensor) if layout is None else layout
    return f"{name} {kind} {sizes}{how and ' '}{how}"


def option_part(name: str, value: object) -> str | None:
    """One option, such as ``groups 32`` or ``silu``; None for one that is not there."""
    if value is None or value is False or isinstance(value, float):
        return None
    if value is True:
        return name
    if isinstance(value, tuple):
        return f"{name} {'x'.join(map(str, value))}"
    return f"{name} {str(value).removeprefix('torch.')}"


def layout_of(tensor: torch.Tensor) -> str:
    """How a tensor lies in memory: empty for a contiguous one; dimensions of size 1 do not count."""
    if _packed(tensor):
        return PACKED
    if tensor.is_contiguous():
        return ""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels-last"
    shape, stride = tensor.shape, tensor.stride()
    real = sorted((axis for axis in range(tensor.dim()) if shape[axis] > 1), key=lambda axis: -stride[axis])
    words, dense = [], 1
    if real != sorted(real):
        words.append("order " + "".join(map(str, real)))
    for axis in reversed(real):
        if stride[axis] != dense:
            words.append("repeated" if stride[axis] == 0 else "gaps")
            break
        dense *= shape[axis]
    far = [stride[axis] for axis in real if stride[axis] > 1]
    if any(step * tensor.element_size() % _VECTOR for step in far):
        words.append("odd strides")
    return " ".join(words)


@functools.cache
def _options(call: Hashable) -> tuple[str, ...]:
    """The names of the options that may decide a call's time."""
    named = _tensors(call)
    return tuple(
        field.name
        for field in dataclasses.fields(call)  # type: ignore[arg-type]
        if field.init and field.name not in named and field.name not in FREE and "Step" not in str(field.type)
    )


def _tensors(call: Any) -> set[str]:
    return {
        field.name for field in dataclasses.fields(call) if field.init and "torch.Tensor" in str(field.type)
    }


@functools.cache
def options_of(call: Hashable) -> Callable[[Any], Any]:
    """A function that gives the values of the options together, as something that hashes."""
    names = _options(call)
    return operator.attrgetter(*names) if names else lambda call: None


def _packed(tensor: torch.Tensor) -> bool:
    """Whether it is a ``PackedWeight``, whose module imports what imports this one."""
    return type(tensor).__name__ == "PackedWeight"


def aligned(call: Any) -> bool:
    """Whether every tensor of a call begins at a multiple of 16 bytes, which some plans need."""
    return not any(
        tensor.data_ptr() % _VECTOR for tensor in call.tensors if tensor is not None and not _packed(tensor)
    )


def shapes(call: Any) -> tuple[Any, ...]:
    """What :func:`signature` is made of, for calls with the same facts: quick to compare and to hash."""
    found: list[Any] = [options_of(type(call))(call)]  # type: ignore[arg-type]
    for tensor in call.tensors:
        if tensor is not None:
            found += (tensor.shape, tensor.stride(), tensor.dtype)
        else:
            found.append(None)
    return tuple(found)
