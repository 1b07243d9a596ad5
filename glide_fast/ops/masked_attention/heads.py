"""Heads as views of ``[N, T, heads * head_size]``, and masks as tensors, for the backends that call torch's operators."""

from __future__ import annotations

import torch


def split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """``[N, T, heads * head_size]`` as ``[N, heads, T, head_size]``; a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join(x: torch.Tensor) -> torch.Tensor:
    """The reverse of :func:`split`; a view where a token's heads already lie side by side."""
    return x.transpose(1, 2).flatten(2)


def visible(keys: int, causal: bool, lengths: torch.Tensor) -> torch.Tensor:
    """A mask, True where a query sees a key: bool ``[N, 1, T or 1, keys]`` on the device of ``lengths``."""
    positions = torch.arange(keys, device=lengths.device)
    seen = positions < lengths[:, None, None, None]
    return seen & (positions <= positions[:, None]) if causal else seen
