"""Programmatic dependent launch: a kernel is set up while the one before it on the stream still runs.

CUDA has it from compute capability 9.0 on. A kernel that is launched so must wait (``griddepcontrol.wait``) before it reads or
writes anything that another kernel may touch; ours wait before their first access to memory, but for the norm's weight and bias,
which no kernel of a step writes. What is saved is the gap between two
kernels, which also counts inside a captured graph.

Off for direct calls of ops; a model's step switches it on (:class:`glide_fast.runtime.features.Features`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

OLDEST = (9, 0)
"""The least compute capability."""

_allowed: ContextVar[bool] = ContextVar("glide_fast_dependent_launch", default=False)


@contextmanager
def allowed(setting: bool = True) -> Iterator[None]:
    """Within the block, kernels that can be launched early are (or, with False, are not)."""
    token = _allowed.set(setting)
    try:
        yield
    finally:
        _allowed.reset(token)


def wanted(device: torch.device) -> bool:
    """Whether a kernel on this device is to be launched early.

    Tensors without memory (``meta``) stand for those of a device that kernels are only compiled for.
    """
    return _allowed.get() and (device.type == "meta" or (device.type == "cuda" and _has_it(device.index)))


@functools.cache
def _has_it(index: int | None) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(index) >= OLDEST
