"""GLIDE's calls of masked_attention, in the noise-aware CLIP's encoders: arguments, least cost, and how far a result may err."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, held
from glide_fast.ops.masked_attention.arguments import Call

HEAD = 64  # channels of a head
LENGTH = 12  # tokens of an ordinary prompt, with its start and end
FLOOR = 16 * 2.0**-24  # exponentials, and sums of many of them, in fp32


def _draw(
    tokens: int, heads: int, prompts: bool, batch: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    q, k, v = torch.randn(3, batch, tokens, heads * HEAD, generator=generator).to(dtype).unbind()
    lengths = torch.full((batch,), LENGTH) if prompts else None
    return {"q": q, "k": k, "v": v, "heads": heads, "causal": prompts, "lengths": lengths}


CASES = (
    Case(
        "masked_attention", "clip text", "77 tokens, causal, padded", (1, 8, 32), partial(_draw, 77, 8, True)
    ),
    Case(
        "masked_attention",
        "clip image",
        "257 tokens",
        (1, 8, 32),
        partial(_draw, 257, 12, False),
        partial(_draw, 65, 12, False),
    ),
)


def cost(call: Call) -> Cost:
    """q, k and v are read, and as much as q is written; two matrix products, with half of the keys under a causal mask.

    Padding counts too: to leave it out, lengths would have to be fetched from the device.
    """
    products = 4 * call.q.numel() * call.k.shape[1]
    return Cost(held(call.q, call.k, call.v, call.q), products // 2 if call.causal else products)


def describe(call: Call) -> str:
    """Sizes, heads, keys and whether the mask is causal, in words."""
    n, queries, width = call.q.shape
    causal = ", causal" if call.causal else ""
    return f"{n}x{queries}x{width}, {call.heads} heads, {call.k.shape[1]} keys{causal}"
