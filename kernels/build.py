"""The record of one configuration of a kernel: all that Triton needs to compile it where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch

ELEMENTS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
"""Types of activations, with Triton's names for them."""

Call = TypeVar("Call")


class Build(NamedTuple):
    """One configuration of a kernel that the ops launch."""

    kernel: Any  # a triton.JITFunction
    label: str  # its use in words, for reports
    arguments: Mapping[str, str]  # run-time argument -> Triton type; "*" marks pointers
    constants: Mapping[str, Any]
    warps: int
    stages: int = 1
    fusion: bool = True  # whether a product and a sum may become one fused multiply-add
    sizes: tuple[str, ...] = ()  # further arguments that are multiples of 16

    @property
    def aligned(self) -> tuple[str, ...]:
        """The arguments that are multiples of 16 for every shape of GLIDE: all pointers and strides, and ``sizes``."""
        found = (n for n, type_name in self.arguments.items() if type_name[0] == "*" or n.endswith("stride"))
        return (*found, *self.sizes)


def launch_options(dependent: bool) -> dict[str, bool]:
    """Options of a launch; ``dependent``: by programmatic dependent launch, which needs compute capability 9.0."""
    return {"launch_pdl": True} if dependent else {}


def extremes(
    calls: Iterable[Call], sort: Callable[[Call], Hashable], size: Callable[[Call], int]
) -> list[Call]:
    """The smallest and the largest call of each sort.

    Args:
        calls: of any type.
        sort: a key that is equal for calls of the same sort.
        size: the number by which calls of a sort are compared.
    """
    by_sort: dict[Hashable, list[Call]] = {}
    for call in calls:
        by_sort.setdefault(sort(call), []).append(call)
    found = []
    for alike in by_sort.values():
        smallest, largest = min(alike, key=size), max(alike, key=size)
        found += [smallest] if size(smallest) == size(largest) else [smallest, largest]
    return found
