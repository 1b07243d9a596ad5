"""xformers' memory_efficient_attention as a backend of text_attention, with the concatenation that it needs.

Optional (``pip install "glide-fast[xformers]"``), and only where somebody asks for it: its binary is built for one torch.
"""

from __future__ import annotations

import importlib

import torch

from glide_fast.ops.attention import why_no_xformers
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.arguments import Call, Facts


def supports(facts: Facts) -> str | None:
    """Why it cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"the tensors are on {facts.device}; xformers has operators for CUDA devices only"
    if facts.dtype not in (torch.float16, torch.bfloat16):
        return f"qkv is {facts.dtype}; it is used for float16 and bfloat16"
    if not facts.alike:
        return "encoder_kv differs from qkv in type or device"
    if facts.empty:
        return "qkv holds no elements"
    if facts.head_size % 8:
        return f"heads are {facts.head_size} wide; its operators want a multiple of 8"
    return why_no_xformers()


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; differentiable."""
    attention = importlib.import_module("xformers.ops").memory_efficient_attention
    q, k, v = (part.transpose(1, 2) for part in packed_heads.split(call.qkv, call.heads, call.encoder_kv))
    return packed_heads.merge(attention(q, k, v).transpose(1, 2))
