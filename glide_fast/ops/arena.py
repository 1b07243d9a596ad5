"""Memory for a step on the CPU: what the first step's tensors took, every later one takes again.

oneDNN's operators in torch make their results, and their scratch memory, themselves. Within :func:`scope` all of it comes out of
one range of addresses, which is asked of the system when the first step runs, is held in large pages where there are any, and is
shared by all models and loops of the process.
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
    """Of the process's range; ``outside`` of the calling thread."""

    held: int
    """Bytes asked of the system."""
    live: int
    """Bytes that tensors hold now."""
    grown: int
    """Times that more was asked of the system."""
    outside: int
    """Requests within scopes that torch's own allocator had to serve."""


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    record = native.build_record() or {}
    if "torch" not in record and native.why_missing() is None:
        return None, "the build is older than the sources: install glide_fast again"
    built_for = record.get("torch")
    if built_for is None:
        return None, f"it was not built: {record.get('torch_why_not', native.why_missing())}"
    try:
        # A library for another torch is not even loaded: it would call what is not there.
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
    """Why :func:`scope` has no effect here; None where it has."""
    library, reason = _load()
    if library is not None and not library.install():
        return "the system sets no addresses aside, or another library has replaced torch's allocator"
    return reason


def scope(device: torch.device) -> AbstractContextManager[None]:
    """While it lasts, this thread's new tensors on the CPU lie in the arena; elsewhere than on the CPU it does nothing.

    A tensor may outlive it, but keeps its memory from the next step meanwhile.
    """
    library = _load()[0] if device.type == "cpu" else None
    return nullcontext() if library is None else library.Scope()  # type: ignore[no-any-return]


def outside() -> AbstractContextManager[None]:
    """For what is made within a scope and kept for longer than a step: it is allocated as it would be without the scope."""
    library = _load()[0]
    return nullcontext() if library is None else library.Outside()  # type: ignore[no-any-return]


def state() -> State:
    """What the arena holds; zeros where there is none."""
    library = _load()[0]
    return State(0, 0, 0, 0) if library is None else State(**library.state())


def trim() -> None:
    """Give all memory back to the system that no tensor holds; the next step asks for it again."""
    library = _load()[0]
    if library is not None:
        library.trim()
