"""What the compiler is told of one configuration of a kernel, so that it can be compiled where there is no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


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
