"""An activation of the torso as a sum whose terms may not have been added yet."""

from __future__ import annotations

import torch


class Stream:
    """The sum ``value + bias + residual``, of which only the first term need be in memory.

    On a GPU, adding a convolution's bias and the residual branch would each take a launch and a pass over memory. Instead the
    next norm reads all three terms and writes their sum once (see :func:`glide_fast.ops.group_norm_act`).

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
        """Whether there are terms that have not been added to ``value``."""
        return self.bias is not None or self.residual is not None

    def settle(self, total: torch.Tensor) -> None:
        """Replace the terms by their sum, ``total``."""
        self.value, self.bias, self.residual = total, None, None
