"""Remembering results by the tensors that they were computed from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


def identity(tensor: torch.Tensor | None) -> Hashable:
    """A key that is equal for the same tensor with the same version counter, without reading its values."""
    if tensor is None:
        return None
    return id(tensor), 0 if tensor.is_inference() else tensor._version


def _copy_to_compare(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A copy of the values if they are to be compared later: on a CPU, or where only that can show a change; else None."""
    if tensor is None or not (tensor.device.type == "cpu" or tensor.is_inference()):
        return None
    return tensor.detach().clone()


class Remembered(Generic[T]):
    """A cache of the results used last. Its keys are the tensors that a result was computed from; the cache keeps them alive.

    A loop passes the same prompt tensor at every step. On a CPU its values are compared, so every change is noticed. On a GPU a
    comparison would wait for the device, so the version counter decides (which does not see writes through ``.data``); tensors
    of inference mode have no counter, so their values are compared on a GPU, too.

    Args:
        capacity: how many results to keep.
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
        """The result of ``make()`` for these ``sources`` and this ``stamp``, remembered or computed now.

        Args:
            sources: the tensors that ``make`` reads.
            make: computes the result.
            stamp: everything else that the result depends on.
            shown: returns the result's tensors that callers can write to. After such a write, which is noticed in the same way
                as one to the sources, the result is computed again.
        """
        key = (stamp, *(identity(tensor) for tensor in sources))
        entry = self._entries.get(key)
        if entry is not None and entry.holds():
            self._entries.move_to_end(key)
            return entry.result
        with torch.inference_mode(False):
            copies = tuple(_copy_to_compare(tensor) for tensor in sources)
        result = make()
        # Listed now, because the caller may put other tensors into a result that is a list or a dictionary.
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
    versions: tuple[
        Hashable, ...
    ]  # identities of the shown tensors; those of the sources are the entry's key
    copies: tuple[torch.Tensor | None, ...]
    result: T

    def holds(self) -> bool:
        """Whether neither the sources nor the shown tensors of the result have changed since the result was computed."""
        return self.versions == tuple(map(identity, self.shown)) and all(
            copy is None or (tensor is not None and torch.equal(tensor.detach(), copy))
            for tensor, copy in zip((*self.sources, *self.shown), self.copies, strict=True)
        )
