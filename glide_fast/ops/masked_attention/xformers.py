"""xformers' memory_efficient_attention as a backend of masked_attention. Optional, as for text_attention."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import torch

from glide_fast.ops.text_attention import xformers as text_attention_xformers

if TYPE_CHECKING:
    from glide_fast.ops.masked_attention import Call


def supports(call: Call) -> str | None:
    """Why it cannot serve this call, or None."""
    if call.device != "cuda":
        return f"the tensors are on {call.device}; xformers has operators for CUDA devices only"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"q is {call.dtype}; it is used for float16 and bfloat16"
    if call.empty:
        return "q holds no elements"
    if call.lengths:
        return "lengths are given; its masks by length are built from numbers on the host, so the call would wait for them"
    if call.head_size % 8:
        return f"heads are {call.head_size} wide; its operators want a multiple of 8"
    return text_attention_xformers.why_missing()


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts, so without lengths; differentiable."""
    library = importlib.import_module("xformers.ops")
    mask = library.LowerTriangularMask() if causal else None
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    result: torch.Tensor = library.memory_efficient_attention(q, k, v, attn_bias=mask)
    return result.flatten(2)
