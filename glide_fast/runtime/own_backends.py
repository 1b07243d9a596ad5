"""Methods whose ops run on the backends that the environment asked for when their object was made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from glide_fast.ops import backends

P = ParamSpec("P")
R = TypeVar("R")


class Choosing(Protocol):
    """What has read the environment."""

    @property
    def forced_backends(self) -> backends.Setting:
        """What GLIDE_FAST_BACKEND said (:func:`glide_fast.ops.backends.read_environment`)."""


C = TypeVar("C", bound=Choosing)


def on_own_backends(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """A method during which ``forced_backends`` of its object holds in place of the environment."""

    @functools.wraps(method)
    def run(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with backends.bound(self.forced_backends):
            return method(self, *args, **kwargs)

    return run
