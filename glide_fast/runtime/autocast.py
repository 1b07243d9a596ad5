"""Methods that compute in the types of their weights, also within a caller's ``torch.autocast``.

These methods keep results that later callers use without autocast; and the fused operations support certain types only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Placed(Protocol):
    """An object that computes on one device."""

    @property
    def device(self) -> torch.device:
        """The device."""


D = TypeVar("D", bound=Placed)


def without_autocast(method: Callable[Concatenate[D, P], R]) -> Callable[Concatenate[D, P], R]:
    """A method that runs with autocast disabled for its object's device."""

    @functools.wraps(method)
    def run(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with autocast_off(self.device):
            return method(self, *args, **kwargs)

    return run


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """A block in which operations on ``device`` compute in the types of their arguments."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
