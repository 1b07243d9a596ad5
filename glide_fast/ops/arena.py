"""Memory for the steps of a loop on the CPU: the first step allocates it, and every later step uses it again.

oneDNN's operators in torch allocate their results and their scratch memory themselves. Within :func:`scope` all of it comes from
one range of addresses, for which memory is asked of the system when the first step runs, in large pages where there are any. All
models and loops of the process share this range.
"""

from __future__ import annotations

import functools
import importlib
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import NamedTuple

import torch

from glide_fast.ops import native


class State(NamedTuple):
    """Figures of the process's arena; ``outside`` is of the calling thread alone."""

    held: int
    """Bytes asked of the system."""
    live: int
    """Bytes that tensors use now."""
    grown: int
    """How often more was asked of the system."""
    outside: int
    """Requests within scopes that torch's allocator had to serve, because the arena could not."""


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    record = native.build_record() or {}
    if "torch" not in record and native.why_missing() is None:
        return None, "the build is older than the sources: install glide_fast again"
    built_for = record.get("torch")
    if built_for is None:
        return None, f"it was not built: {record.get('torch_why_not', native.why_missing())}"
    try:
        # A library for another torch is not even loaded: it would call functions that this torch does not have.
        library = importlib.import_module("glide_fast._arena") if built_for == torch.__version__ else None
    except ImportError as error:
        return None, f"it does not load: {error}"
    built_for = built_for if library is None else library.torch
    if built_for != torch.__version__:
        return (
            None,
            f"it was built for torch {built_for}, and this is torch {torch.__version__}: install glide_fast again",
        )
    return library, None


def why_missing() -> str | None:
    """Why :func:`scope` has no effect in this process; None if it has."""
    library, reason = _load()
    if library is not None and not library.install():
        return "the system sets no addresses aside, or another library has replaced torch's allocator"
    return reason


def scope(device: torch.device) -> AbstractContextManager[None]:
    """A block in which this thread's new tensors on the CPU lie in the arena; for another ``device`` it has no effect.

    A tensor may be used after the block, but the next step cannot use its memory meanwhile.
    """
    library = _load()[0] if device.type == "cpu" else None
    return nullcontext() if library is None else library.Scope()  # type: ignore[no-any-return]


def outside() -> AbstractContextManager[None]:
    """A block within a :func:`scope` whose tensors do not lie in the arena; for tensors that are kept for longer than a step."""
    library = _load()[0]
    return nullcontext() if library is None else library.Outside()  # type: ignore[no-any-return]


def state() -> State:
    """The arena's figures; zeros where :func:`scope` has no effect."""
    library = _load()[0]
    return State(0, 0, 0, 0) if library is None else State(**library.state())


def trim() -> None:
    """Return all memory that no tensor uses to the system; the next step asks for it again."""
    library = _load()[0]
    if library is not None:
        library.trim()
