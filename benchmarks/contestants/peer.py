"""A contestant from another package."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import torch

from glide_fast.bench.contest import Unable


class Peer(NamedTuple):
    """``prepare`` takes a description of the work and returns a function that does it; raises :class:`Unable` if it cannot."""

    name: str
    prepare: Callable[[Any], Callable[[], Iterable[torch.Tensor]]]


def load(module: str, distribution: str) -> ModuleType:
    """Import ``module``; raise Unable where its package is missing or broken."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        raise Unable(f"not installed (pip install {distribution}): {missing}") from missing
    except Exception as broken:  # a binary that was built for another torch or GPU may raise anything
        raise Unable(f"does not load: {type(broken).__name__}: {broken}") from broken


def named(name: str, distribution: str) -> str:
    """``name`` with the version that is installed."""
    try:
        return f"{name} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def need_cuda(x: torch.Tensor) -> None:
    """Raise Unable for a tensor that is on no GPU."""
    if not x.is_cuda:
        raise Unable(f"its kernels run on CUDA devices only; the tensors are on {x.device.type}")
