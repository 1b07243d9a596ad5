"""Recording the kernels that some work launches, to launch them again as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from glide_fast.runtime.fair_lock import FairLock

_recording = FairLock()
"""One graph is recorded at a time."""


class Recording(Protocol):
    """Recorded kernels."""

    def replay(self) -> None:
        """Launch the same kernels again, on the same memory."""

    def release(self) -> None:
        """Free its memory; it cannot be replayed afterwards."""


class Recorder(Protocol):
    """Records work."""

    def record(self, work: Callable[[], object]) -> Recording:
        """Record the kernels that ``work`` launches, which may or may not run meanwhile.

        ``work`` has run before, so that libraries need not be set up while it is recorded.
        """


class CudaGraphs:
    """Records CUDA graphs whose temporary memory all comes from one pool.

    Graphs of one pool may overwrite each other's temporary memory. So results must be written to memory that was allocated
    outside, and two of the graphs must not run at the same time.
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
            # Other threads may launch kernels and allocate memory meanwhile.
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
