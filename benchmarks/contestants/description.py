"""Descriptions of the work of a case, in terms that fit other packages."""

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
        """FiLM and SiLU in eager torch, since other packages do not fuse them. ``y``: the norm's result, in any memory layout."""
        y = y.contiguous(
            memory_format=torch.channels_last
        )  # for the next convolution; a copy, unless ``y`` has this layout
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
