"""Recording work that is launched on a device once, to launch it again as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from glide_fast.runtime.fair_lock import FairLock

_recording = FairLock()
"""Held while a graph is recorded."""


class Recording(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Launch it again: the same kernels on the same memory."""

    def release(self) -> None:
        """Give its memory back; it cannot be replayed afterwards."""


class Recorder(Protocol):
    """Records work."""

    def record(self, work: Callable[[], object]) -> Recording:
        """Record what ``work`` launches, which may or may not run meanwhile. It has run before, so nothing is set up in it."""


class CudaGraphs:
    """Records CUDA graphs whose temporary memory all comes from one pool.

    Graphs of one pool may overwrite each other's temporaries: what has to outlive a replay must be written to memory from
    elsewhere, and two of them must not run at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], object]) -> Recording:
        """Raises RuntimeError where ``work`` does something that cannot be captured."""
        return _recording.run(self._record, work)

    def _record(self, work: Callable[[], object]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            # One at a time in the process; other threads may go on launching and allocating meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        return _CudaGraph(graph)


class _CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()

    def release(self) -> None:
        self._graph.reset()
