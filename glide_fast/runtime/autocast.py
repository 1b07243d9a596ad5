"""Methods that compute in the types of their weights, whatever ``torch.autocast`` of the caller says.

What they keep serves later callers too, and the fused operations need the types they were made for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Placed(Protocol):
    """What computes on one device."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""


D = TypeVar("D", bound=Placed)


def without_autocast(method: Callable[Concatenate[D, P], R]) -> Callable[Concatenate[D, P], R]:
    """A method that runs with autocast disabled for its object's device."""

    @functools.wraps(method)
    def run(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        kind = self.device.type
        if not torch.is_autocast_enabled(kind):
            return method(self, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return method(self, *args, **kwargs)

    return run
