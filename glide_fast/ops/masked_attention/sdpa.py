"""torch's scaled_dot_product_attention as a backend of masked_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glide_fast.ops.masked_attention.arguments import Call, Facts
from glide_fast.ops.masked_attention.heads import join, split, visible


def supports(facts: Facts) -> str | None:
    """Why torch's function cannot serve this call, or None."""
    return "q holds no elements" if facts.empty else None


def worth(facts: Facts) -> str | None:
    """Why the reference is the better choice unless this backend is forced, or None.

    On an AVX-512 core the reference took 1.1 to 3 times as long as this backend in float32, with and without gradients, but 0.4
    to 1.0 times as long (1.7 in one case of eight) in bfloat16; docs/explanation/kernels.md has the table.
    """
    if facts.device == "cuda":
        return None
    if facts.device != "cpu":
        return f"it was never measured on {facts.device}; force it to compare"
    if facts.dtype != torch.float32:
        return "on a CPU it was measured faster than the reference in float32 only; force it to compare"
    return None


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; differentiable."""
    # Only lengths need a mask in memory; torch has causal kernels that need none.
    mask = None if call.lengths is None else visible(call.k.shape[1], call.causal, call.lengths)
    q, k, v = (split(x, call.heads) for x in (call.q, call.k, call.v))
    causal = call.causal and mask is None
    return join(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal))
