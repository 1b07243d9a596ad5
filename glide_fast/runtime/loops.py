"""The loops of a pipeline that are kept from call to call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from glide_fast.runtime.captured import CapturedLoop


class LoopCache:
    """Captured loops by what is fixed in them (batch, size, sampler, steps, kinds of conditioning), the latest few.

    Args:
        capacity: loops to keep; the one used longest ago is released for a new one.
    """

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._loops: OrderedDict[Hashable, CapturedLoop] = OrderedDict()

    def __len__(self) -> int:
        return len(self._loops)

    def get(self, key: Hashable, make: Callable[[], CapturedLoop]) -> tuple[CapturedLoop, bool]:
        """The loop of this key, and whether it was made just now."""
        if key in self._loops:
            self._loops.move_to_end(key)
            return self._loops[key], False
        while len(self._loops) >= self._capacity:
            self._loops.popitem(last=False)[1].release()
        self._loops[key] = loop = make()
        return loop, True

    def release(self) -> None:
        """Give the memory of all loops back."""
        for loop in self._loops.values():
            loop.release()
        self._loops.clear()
