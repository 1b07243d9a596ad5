"""The maths of text_attention in plain torch: the ground truth for every backend, and what runs where the others decline."""

from __future__ import annotations

import math

import torch

from glide_fast.ops.text_attention.arguments import Call


def reference(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """The result of :func:`glide_fast.ops.text_attention`; differentiable."""
    n, width, tokens = qkv.shape
    head_size = width // (3 * heads)
    q, k, v = qkv.reshape(n * heads, 3 * head_size, tokens).split(head_size, dim=1)
    if encoder_kv is not None:
        text_k, text_v = encoder_kv.reshape(n * heads, 2 * head_size, encoder_kv.shape[2]).split(
            head_size, dim=1
        )
        k = torch.cat([text_k, k], dim=-1)
        v = torch.cat([text_v, v], dim=-1)
    # Scaling both factors by head_size ** -1/4 keeps fp16 logits in range; scaling the product would overflow first.
    scale = 1.0 / math.sqrt(math.sqrt(head_size))
    logits = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = torch.softmax(logits, dim=-1).to(qkv.dtype)
    return torch.einsum("bts,bcs->bct", probabilities, v).reshape(n, heads * head_size, tokens)


def run(call: Call) -> torch.Tensor:
    """The same, of a call."""
    return reference(call.qkv, call.heads, call.encoder_kv)
