"""Keeping ``torch.compile`` away from a function, without importing the compiler unless it is used."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(reason: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: compiled code calls the function without compiling it; with ``fullgraph=True`` it raises the ``reason``.

    ``torch.compiler.disable`` does that, but imports torch's compiler, which takes seconds.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        disabled: Callable[P, R] | None = None

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            nonlocal disabled
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            if disabled is None:
                disabled = torch.compiler.disable(function, reason=reason)
            return disabled(*args, **kwargs)

        return call

    return decorate
