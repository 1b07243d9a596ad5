"""What the compiler is told of one configuration of a kernel, so that it can be compiled where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch

ELEMENTS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
"""Types of activations, and Triton's names of them."""

Call = TypeVar("Call")


class Build(NamedTuple):
    """One configuration that ships."""

    kernel: Any  # a triton.JITFunction
    label: str  # what it is for, for people
    arguments: Mapping[str, str]  # run-time argument -> Triton type; "*" marks pointers
    constants: Mapping[str, Any]
    warps: int
    stages: int = 1
    fusion: bool = True  # of products and sums into one rounding
    sizes: tuple[str, ...] = ()  # arguments that divide by 16 besides pointers and strides

    @property
    def aligned(self) -> tuple[str, ...]:
        """The arguments that divide by 16, for every shape of GLIDE: all pointers and strides, and ``sizes``."""
        found = (n for n, kind in self.arguments.items() if kind[0] == "*" or n.endswith("stride"))
        return (*found, *self.sizes)


def launch_options(dependent: bool) -> dict[str, bool]:
    """Options of a launch; ``dependent``: by programmatic dependent launch, which needs compute capability 9.0."""
    return {"launch_pdl": True} if dependent else {}


def extremes(
    calls: Iterable[Call], sort: Callable[[Call], Hashable], size: Callable[[Call], int]
) -> list[Call]:
    """Of each sort of call the smallest and the largest."""
    by_sort: dict[Hashable, list[Call]] = {}
    for call in calls:
        by_sort.setdefault(sort(call), []).append(call)
    found = []
    for alike in by_sort.values():
        smallest, largest = min(alike, key=size), max(alike, key=size)
        found += [smallest] if size(smallest) == size(largest) else [smallest, largest]
    return found
