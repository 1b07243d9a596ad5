"""An activation on its way through the torso, and what is still to be added to it."""

from __future__ import annotations

import torch


class Stream:
    """The sum ``value + bias + residual``, of which only the first term need be in memory.

    On a GPU a convolution's bias and the residual branch cost a launch and a pass over memory each; the next norm reads the
    three of them and writes the sum once (see :func:`glide_fast.ops.group_norm_act`). Until then they are owed.

    Attributes:
        value: ``[N, C, H, W]``, channels-last.
        bias: ``[C]`` or None.
        residual: as ``value``, or None.
    """

    __slots__ = ("bias", "residual", "value")

    def __init__(
        self, value: torch.Tensor, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None
    ) -> None:
        self.value, self.bias, self.residual = value, bias, residual

    @property
    def owes(self) -> bool:
        """Whether ``value`` is not the whole sum."""
        return self.bias is not None or self.residual is not None

    def settle(self, total: torch.Tensor) -> None:
        """Put the sum, which somebody has written, in the place of its terms."""
        self.value, self.bias, self.residual = total, None, None
