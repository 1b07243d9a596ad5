"""Tensors that are computed from a parameter, and computed again after the parameter was replaced or written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from glide_fast.ops import arena
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not
from glide_fast.runtime.fingerprint import fingerprint
from glide_fast.runtime.watched import Watched, watched


def written(parameter: torch.Tensor) -> tuple[int, int, int]:
    """A value that differs after ``parameter`` was replaced by another tensor, or was written to in place.

    Writes through raw memory (numpy, DLPack, storages) do not change it, nor do writes through ``.data`` unless the parameter is
    :class:`~glide_fast.runtime.watched.Watched`; :func:`~glide_fast.runtime.fingerprint.fingerprint` shows those.
    """
    if isinstance(parameter, PackedWeight):
        return id(parameter), 0, parameter.version
    name = parameter.serial if isinstance(parameter, Watched) else id(parameter)
    return name, parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


class Derived:
    """A part of a weight, or another weight computed from it.

    Args:
        source: returns the parameter as it is now.
        part: computes the derived tensor from the parameter's values.
        packed: keep the derived tensor in oneDNN's layout if oneDNN takes its type; otherwise as ``part`` returns it.
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
        self._values: int | None = None  # the fingerprint of the parameter that the result was computed from
        self._computed = 0
        watched(source())

    def get(self, input_shape: Sequence[int]) -> torch.Tensor:
        """The derived tensor for the parameter's present values. ``input_shape``: the convolution's inputs to pack it for."""
        source = watched(self._source())
        now = written(source)
        if self._result is None or now != self._source_version:
            with arena.outside():
                part = self._part(source.detach())
                pack = self._packed and why_not(part.dtype, part.device) is None
                self._result = PackedWeight.pack(part, input_shape=input_shape) if pack else part
                # A view of the parameter shows every write to it.
                self._values = None if _is_view(self._result, source) else fingerprint([source])[0]
            self._source_version = now
            self._computed += 1
        return self._result

    @property
    def version(self) -> int | None:
        """How often the derived tensor was computed; None where there is none now."""
        return None if self._result is None else self._computed

    def look(self, seen: dict[int, int]) -> None:
        """Forget the derived tensor if the parameter's values have changed without its version counter.

        Args:
            seen: fingerprints taken just now, by the ids of their parameters; missing ones are added.
        """
        if self._result is None or self._values is None:
            return
        source = self._source()
        if id(source) not in seen:
            seen[id(source)] = fingerprint([source])[0]
        if seen[id(source)] != self._values:
            self.forget()

    def forget(self) -> None:
        """Compute the derived tensor again when it is asked for next."""
        self._result = None


def _is_view(result: torch.Tensor, source: torch.Tensor) -> bool:
    if isinstance(result, PackedWeight) or isinstance(source, PackedWeight):
        return False
    return result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
