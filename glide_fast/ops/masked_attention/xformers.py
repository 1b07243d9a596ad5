"""xformers' memory_efficient_attention as a backend of masked_attention. Optional, as for text_attention."""

from __future__ import annotations

import importlib

import torch

from glide_fast.ops.attention import why_no_xformers
from glide_fast.ops.masked_attention.arguments import Call, Facts


def supports(facts: Facts) -> str | None:
    """Why xformers cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"the tensors are on {facts.device}; xformers has operators for CUDA devices only"
    if facts.dtype not in (torch.float16, torch.bfloat16):
        return f"q is {facts.dtype}; it is used for float16 and bfloat16"
    if facts.empty:
        return "q holds no elements"
    if facts.lengths:
        return "lengths are given; its masks by length are built from numbers on the host, so the call would wait for them"
    if facts.head_size % 8:
        return f"heads are {facts.head_size} wide; its operators want a multiple of 8"
    return why_no_xformers()


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts, which have no lengths; differentiable."""
    library = importlib.import_module("xformers.ops")
    mask = library.LowerTriangularMask() if call.causal else None
    q, k, v = (x.unflatten(-1, (call.heads, -1)) for x in (call.q, call.k, call.v))
    result: torch.Tensor = library.memory_efficient_attention(q, k, v, attn_bias=mask)
    return result.flatten(2)
