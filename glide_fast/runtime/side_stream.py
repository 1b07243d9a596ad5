"""Work that runs beside the main line of a step, on a second stream of a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Started:
    """Work on a side stream.

    Attributes:
        result: what the work returned. On a GPU it has its values only after :meth:`join`.
    """

    def __init__(self, result: torch.Tensor, side: torch.cuda.Stream | None = None) -> None:
        self.result, self._side = result, side

    def join(self) -> torch.Tensor:
        """Let all that the current stream does from now on wait for the work; returns its result."""
        if self._side is not None:
            torch.cuda.current_stream(self._side.device).wait_stream(self._side)
            self._side = None
        return self.result


class SideStream:
    """Runs work on a second stream of a GPU; on a CPU at once, where it is started.

    It also works while a CUDA graph is captured: the work is then a branch of the graph. Torch's allocator hands a freed tensor's
    memory to the next tensor of the same stream, so these rules keep memory from being overwritten:

    - Whoever starts work holds the tensors that it reads until it has joined it.
    - The result belongs to the side stream. It may be dropped at any time after it was read on the main stream: the next work
      begins with a wait for all that the main stream had been given by then.
    """

    def __init__(self) -> None:
        self._side: torch.cuda.Stream | None = None

    def start(self, work: Callable[[], torch.Tensor], device: torch.device) -> Started:
        """Start ``work``, which launches kernels on ``device``, after all that the current stream has been given."""
        if device.type != "cuda":
            return Started(work())
        if self._side is None or self._side.device != device:
            # The first step of a kind is never captured, so the stream is made outside of any capture.
            self._side = torch.cuda.Stream(device)
        self._side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._side):
            return Started(work(), self._side)
