"""A stand-in for CUDA graphs without a GPU: a replay runs the recorded torch operations again on the same memory, nothing else.

Operations are recorded below autograd, as they reach the CPU's kernels, with the very tensors they read and wrote. A replay runs
them again and puts each result where the first one lay. Like a CUDA graph it sees no Python: a number that was read from a
Python variable, and a tensor that has been replaced, stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = tensors(result)
        read = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        # Operations that may return a view may also copy (reshape, to): only a true view launches nothing.
        if not (func.is_view and all(tensor.untyped_storage().data_ptr() in read for tensor in outputs)):
            self.launches.append((func, args, kwargs, outputs))
        return result


def tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors among the leaves."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Launches:
    """The operations that one call launched."""

    def __init__(self, work: Callable[[], object]) -> None:
        with _Recorder() as recorder:
            work()
        self._launches = recorder.launches
        self.replays = 0
        self.released = False

    def replay(self) -> None:
        assert not self.released
        self.replays += 1
        for func, args, kwargs, outputs in self._launches:
            for old, new in zip(outputs, tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def release(self) -> None:
        self.released = True
        self._launches = []


class LaunchRecorder:
    """Records on the CPU; only torch operations, so force ops to backends that consist of these (``force("reference")``)."""

    def __init__(self) -> None:
        self.recordings: list[Launches] = []

    def record(self, work: Callable[[], object]) -> Launches:
        self.recordings.append(Launches(work))
        return self.recordings[-1]
