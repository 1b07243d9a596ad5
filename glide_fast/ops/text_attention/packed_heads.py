"""GLIDE's packed, head-major queries, keys and values, as views."""

from __future__ import annotations

import torch


def split(
    qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values, ``[N, heads, tokens, head_size]`` each; the text's keys and values come first.

    Args:
        qkv: ``[N, heads * 3 * head_size, T]``.
        encoder_kv: ``[N, heads * 2 * head_size, S]``. Where it is given keys and values are copies, else all are views.
    """
    q, k, v = qkv.unflatten(1, (heads, 3, -1)).transpose(-1, -2).unbind(2)
    if encoder_kv is not None:
        text_k, text_v = encoder_kv.unflatten(1, (heads, 2, -1)).transpose(-1, -2).unbind(2)
        k, v = torch.cat([text_k, k], dim=2), torch.cat([text_v, v], dim=2)
    return q, k, v


def merge(result: torch.Tensor) -> torch.Tensor:
    """``[N, heads, tokens, head_size]`` as ``[N, heads * head_size, tokens]``."""
    return result.transpose(-1, -2).flatten(1, 2)


def empty_result(qkv: torch.Tensor) -> torch.Tensor:
    """Uninitialised ``[N, heads * head_size, T]``, dense and laid out as ``qkv`` is: tokens side by side, or channels."""
    n, width, tokens = qkv.shape
    if channels_last(qkv):
        return qkv.new_empty(n, tokens, width // 3).transpose(1, 2)
    return qkv.new_empty(n, width // 3, tokens)


def channels_last(qkv: torch.Tensor) -> bool:
    """Whether a token's channels lie side by side, rather than a channel's tokens."""
    return qkv.stride(1) == 1 and qkv.stride(2) != 1
