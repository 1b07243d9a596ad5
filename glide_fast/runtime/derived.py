"""What is made of a parameter, in a layout of its own, and made again when the parameter is replaced or written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from glide_fast.ops import arena
from glide_fast.ops.packed_weight import PackedWeight, why_not


def written(parameter: torch.Tensor) -> tuple[int, int, int]:
    """Changes whenever ``parameter`` is another tensor or was written to in place."""
    if isinstance(parameter, PackedWeight):
        return id(parameter), 0, parameter.version
    return id(parameter), parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


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
        self._made_of: tuple[int, int, int] | None = None
        self._made: torch.Tensor | None = None

    def get(self, input_shape: Sequence[int]) -> torch.Tensor:
        """What is made of the parameter's present values, packed for inputs of this shape if it has to be made."""
        source = self._source()
        now = written(source)
        if self._made is None or now != self._made_of:
            with arena.outside():
                part = self._part(source.detach())
                pack = self._packed and why_not(part.dtype, part.device) is None
                self._made = PackedWeight.pack(part, input_shape=input_shape) if pack else part
            self._made_of = now
        return self._made
