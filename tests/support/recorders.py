"""A stand-in for CUDA graphs that calls the recorded function again: enough where a test asks when loops are recorded, replayed
and released. (:mod:`support.launches` replays the launches themselves.)"""

from __future__ import annotations

from collections.abc import Callable


class Closure:
    """A recorded function."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.replays = 0
        self.released = False

    def replay(self) -> None:
        assert not self.released
        self.replays += 1
        self._work()

    def release(self) -> None:
        self.released = True


class ClosureRecorder:
    """Records functions; keeps all recordings for a test to look at."""

    def __init__(self) -> None:
        self.recordings: list[Closure] = []

    def record(self, work: Callable[[], object]) -> Closure:
        self.recordings.append(Closure(work))
        return self.recordings[-1]
