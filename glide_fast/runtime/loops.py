"""Keeping the sampling loops of a stage from call to call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from glide_fast.runtime.captured import CapturedLoop


class LoopCache:
    """The captured loops that were used last.

    A loop's key holds all that is fixed in it: number of images, steps, sampler, which inputs there are. A call with the same key
    can use the loop again, with other values.

    Args:
        capacity: how many loops to keep; the one that was used longest ago is released for a new one.
    """

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._loops: OrderedDict[Hashable, CapturedLoop] = OrderedDict()

    def __len__(self) -> int:
        return len(self._loops)

    def get(self, key: Hashable, make: Callable[[], CapturedLoop]) -> tuple[CapturedLoop, bool]:
        """The loop with this key, and whether it is new: if there is none, ``make`` builds it."""
        if key in self._loops:
            self._loops.move_to_end(key)
            return self._loops[key], False
        while len(self._loops) >= self._capacity:
            self._loops.popitem(last=False)[1].release()
        self._loops[key] = loop = make()
        return loop, True

    def release(self) -> None:
        """Forget all loops and free their memory."""
        for loop in self._loops.values():
            loop.release()
        self._loops.clear()
