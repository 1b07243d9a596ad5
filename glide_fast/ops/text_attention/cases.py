"""GLIDE's calls of text_attention: what they are given, what they cost at least, and how far a result may err."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, held
from glide_fast.ops.text_attention.arguments import Call

HEAD, TEXT = 64, 128  # channels of a head, tokens of a prompt
FLOOR = 16 * 2.0**-24  # exponentials, and sums of many of them, in fp32


def _draw(
    tokens: int, heads: int, text: int, batch: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    def packed(parts: int, length: int) -> torch.Tensor:
        # As a projection leaves it in a channels-last network: a token's channels side by side.
        values = torch.randn(batch, length, parts * heads * HEAD, generator=generator)
        return values.to(dtype).transpose(1, 2)

    qkv = packed(3, tokens)
    return {"qkv": qkv, "heads": heads, "encoder_kv": packed(2, text) if text else None}


def _level(model: str, batches: tuple[int, ...], side: int, heads: int) -> Case:
    """An attention block of the UNet's level of this side."""
    return Case(
        "text_attention",
        model,
        f"{side}px, {heads} heads",
        batches,
        partial(_draw, side**2, heads, TEXT),
        # Fewer tokens than a block of keys, a whole number of blocks, or neither.
        partial(_draw, {32: 100, 16: 64, 8: 36}[side], heads, TEXT // 4),
    )


CASES = (
    *(_level("base", (2, 8, 32), side, heads) for side, heads in ((32, 6), (16, 9), (8, 12))),
    Case("text_attention", "base", "text transformer", (2, 8, 32), partial(_draw, TEXT, 8, 0)),
    *(_level("upsampler", (1, 4), side, heads) for side, heads in ((32, 6), (16, 12), (8, 12))),
    Case("text_attention", "upsampler", "text transformer", (1, 4), partial(_draw, TEXT, 8, 0)),
)


def cost(call: Call) -> Cost:
    """Packed queries, keys and values in, a third of qkv's size out; two products of all queries and all keys."""
    n, width, tokens = call.qkv.shape
    keys = tokens + (0 if call.encoder_kv is None else call.encoder_kv.shape[2])
    moved = held(call.qkv, call.encoder_kv) + held(call.qkv) // 3
    return Cost(moved, 4 * n * (width // 3) * tokens * keys)


def describe(call: Call) -> str:
    """Heads, queries and keys in words."""
    qkv, text = call.qkv, call.encoder_kv
    keys = f"{qkv.shape[2]}" if text is None else f"{qkv.shape[2]} + {text.shape[2]} of text"
    return f"{qkv.shape[0]}x{call.heads} heads of {call.head_size}, {qkv.shape[2]} queries, {keys} keys"
