"""The work of a case, in terms that another package can be asked to do it in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F


class NormCall(NamedTuple):
    """A group norm of ``x`` [N, C, H, W] (channels-last) with FiLM and SiLU behind it; the result is channels-last, too.

    ``weight`` and ``bias`` [C]; ``scale`` and ``shift`` [N, C] or None. All are of one floating type.
    """

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    groups: int
    eps: float = 1e-5
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    silu: bool = False

    def finish(self, y: torch.Tensor) -> list[torch.Tensor]:
        """What no other package fuses, in eager torch, on the norm's result ``y``, which may be laid out in any way."""
        y = y.contiguous(
            memory_format=torch.channels_last
        )  # a copy, unless it is so: the next convolution wants it
        if self.scale is not None and self.shift is not None:
            y = y * (1 + self.scale[:, :, None, None]) + self.shift[:, :, None, None]
        return [F.silu(y) if self.silu else y]


class AttentionCall(NamedTuple):
    """Attention with a scale of head_size ** -1/2.

    ``split()`` gives q, k and v, [N, heads, tokens, head_size] each, and does whatever copying the op's own layout makes
    necessary; ``merge(out)`` brings [N, heads, T, head_size] back to it.
    """

    split: Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    merge: Callable[[torch.Tensor], torch.Tensor]
    causal: bool = False
    mask: torch.Tensor | None = None  # bool, True where a query sees a key; broadcasts to [N, heads, T, S]


Description: TypeAlias = NormCall | AttentionCall
