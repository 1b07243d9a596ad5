"""The maths of masked_attention in plain torch: the ground truth for every backend, and the backend where the others decline."""

from __future__ import annotations

import math

import torch

from glide_fast.ops.masked_attention.arguments import Call
from glide_fast.ops.masked_attention.heads import join, split


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """The result of :func:`glide_fast.ops.masked_attention`; differentiable."""
    # q and k are each scaled by the square root of the factor, as in text_attention: the product stays in fp16's range.
    scale = 1.0 / math.sqrt(math.sqrt(q.shape[-1] // heads))
    q, k, v = (split(x, heads) for x in (q, k, v))
    logits = ((q * scale) @ (k * scale).transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32))
    positions = torch.arange(k.shape[-2], device=q.device)
    if causal:
        logits = logits.masked_fill(positions > positions[:, None], -math.inf)
    if lengths is not None:
        logits = logits.masked_fill(positions >= lengths[:, None, None, None], -math.inf)
    probabilities = torch.softmax(logits, dim=-1).to(v.dtype)
    return join(probabilities @ v)


def run(call: Call) -> torch.Tensor:
    """The result of ``call``, by :func:`reference`."""
    return reference(call.q, call.k, call.v, call.heads, causal=call.causal, lengths=call.lengths)
