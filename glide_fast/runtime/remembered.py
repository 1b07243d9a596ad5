"""Results remembered for the very tensors they were made from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


def identity(tensor: torch.Tensor | None) -> Hashable:
    """Says, without reading its values, whether this is still the same tensor, as far as its version counter knows unchanged."""
    if tensor is None:
        return None
    return id(tensor), 0 if tensor.is_inference() else tensor._version


def _copy_to_compare(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The values as they are now, where a look at them costs little or nothing else tells of a change; else None."""
    if tensor is None or not (tensor.device.type == "cpu" or tensor.is_inference()):
        return None
    return tensor.detach().clone()


class Remembered(Generic[T]):
    """The latest few results, by the tensors they were made from, which are kept alive with them.

    A loop hands the same prompt tensor to every step. On a CPU its values are compared, however they were written. On a GPU that
    would wait for the device, so the version counter decides (a write through ``.data`` is not seen), except for tensors of
    inference mode, which have none.

    Args:
        capacity: results to keep.
    """

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()

    def get(
        self,
        sources: Sequence[torch.Tensor | None],
        make: Callable[[], T],
        stamp: Hashable = None,
        shown: Callable[[T], Sequence[torch.Tensor]] = lambda result: (),
    ) -> T:
        """What ``make()`` gave for these ``sources`` and this ``stamp``, or gives now.

        Args:
            sources: the tensors that ``make`` reads.
            make: computes the result.
            stamp: what else the result depends on.
            shown: the result's tensors that callers can write to. A result that was written to is made again; writes are
                noticed as those to the sources are.
        """
        key = (stamp, *(identity(tensor) for tensor in sources))
        entry = self._entries.get(key)
        if entry is not None and entry.holds():
            self._entries.move_to_end(key)
            return entry.result
        with torch.inference_mode(False):
            copies = tuple(_copy_to_compare(tensor) for tensor in sources)
        result = make()
        # Tensors, not the result: its caller may put others into a list or dictionary.
        tensors = tuple(shown(result))
        with torch.inference_mode(False):
            copies += tuple(_copy_to_compare(tensor) for tensor in tensors)
        versions = tuple(map(identity, tensors))
        self._entries[key] = _Entry(tuple(sources), tensors, versions, copies, result)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


@dataclass(frozen=True)
class _Entry(Generic[T]):
    sources: tuple[torch.Tensor | None, ...]
    shown: tuple[torch.Tensor, ...]
    versions: tuple[Hashable, ...]  # of those shown; the sources' are in the entry's key
    copies: tuple[torch.Tensor | None, ...]
    result: T

    def holds(self) -> bool:
        """Whether the sources have the values that the result was made from, and the result those that were made."""
        return self.versions == tuple(map(identity, self.shown)) and all(
            copy is None or (tensor is not None and torch.equal(tensor.detach(), copy))
            for tensor, copy in zip((*self.sources, *self.shown), self.copies, strict=True)
        )
