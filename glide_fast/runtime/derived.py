"""What is made of a parameter, in a layout of its own, and made again when the parameter is replaced or written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from glide_fast.ops import arena
from glide_fast.ops.packed_weight import PackedWeight, why_not
from glide_fast.runtime.fingerprint import fingerprint
from glide_fast.runtime.watched import Watched, watched


def written(parameter: torch.Tensor) -> tuple[int, int, int]:
    """Changes whenever ``parameter`` is another tensor or was written to in place.

    Writes through raw memory (numpy, DLPack, storages) are not noticed, nor those through ``.data`` unless the parameter is
    :class:`~glide_fast.runtime.watched.Watched`; see :func:`~glide_fast.runtime.fingerprint.fingerprint`.
    """
    if isinstance(parameter, PackedWeight):
        return id(parameter), 0, parameter.version
    name = parameter.serial if isinstance(parameter, Watched) else id(parameter)
    return name, parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


class Derived:
    """A part of a weight, or another weight made of it.

    Args:
        source: gives the parameter as it is now.
        part: cuts the part out, or makes it.
        packed: keep it in oneDNN's layout, where that takes its type; otherwise it stays as ``part`` gives it.
    """

    def __init__(
        self,
        source: Callable[[], torch.Tensor],
        part: Callable[[torch.Tensor], torch.Tensor],
        packed: bool,
    ) -> None:
        self._source, self._part, self._packed = source, part, packed
        self._source_version: tuple[int, int, int] | None = None
        self._result: torch.Tensor | None = None
        self._values: int | None = None  # the fingerprint of what the part was made of
        watched(source())

    def get(self, input_shape: Sequence[int]) -> torch.Tensor:
        """What is made of the parameter's present values, packed for inputs of this shape if it has to be made."""
        source = watched(self._source())
        now = written(source)
        if self._result is None or now != self._source_version:
            with arena.outside():
                part = self._part(source.detach())
                pack = self._packed and why_not(part.dtype, part.device) is None
                self._result = PackedWeight.pack(part, input_shape=input_shape) if pack else part
                # A view shows every write by itself.
                self._values = None if _is_view(self._result, source) else fingerprint([source])[0]
            self._source_version = now
        return self._result

    def look(self, seen: dict[int, int]) -> None:
        """Compare the parameter's values with those that the part was made of: it is made again if they were changed unseen.

        Args:
            seen: fingerprints taken just now, by the ids of their parameters; others are added.
        """
        if self._result is None or self._values is None:
            return
        source = self._source()
        if id(source) not in seen:
            seen[id(source)] = fingerprint([source])[0]
        if seen[id(source)] != self._values:
            self.forget()

    def forget(self) -> None:
        """Make the part again when it is asked for next."""
        self._result = None


def _is_view(result: torch.Tensor, source: torch.Tensor) -> bool:
    if isinstance(result, PackedWeight) or isinstance(source, PackedWeight):
        return False
    return result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
