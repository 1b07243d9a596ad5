"""xformers' memory_efficient_attention as a backend of text_attention, with the concatenation that it needs.

Optional (``pip install "glide-fast[xformers]"``), and only where somebody asks for it: its binary is built for one torch.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

import torch

from glide_fast.ops.text_attention import packed_heads

if TYPE_CHECKING:
    from glide_fast.ops.text_attention import Call


@functools.cache
def why_missing() -> str | None:
    """Why xformers' operators cannot run here; None if they can. Never raises."""
    try:
        importlib.import_module("xformers.ops")
        library = importlib.import_module("xformers._cpp_lib")
    except ImportError as error:
        return f'xformers is not installed (pip install "glide-fast[xformers]"): {error}'
    failure = getattr(library, "_cpp_library_load_exception", None)
    return None if failure is None else " ".join(str(failure).split())


def supports(call: Call) -> str | None:
    """Why it cannot serve this call, or None."""
    if call.device != "cuda":
        return f"the tensors are on {call.device}; xformers has operators for CUDA devices only"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"qkv is {call.dtype}; it is used for float16 and bfloat16"
    if not call.alike:
        return "encoder_kv differs from qkv in type or device"
    if call.empty:
        return "qkv holds no elements"
    if call.head_size % 8:
        return f"heads are {call.head_size} wide; its operators want a multiple of 8"
    return why_missing()


def run(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; differentiable."""
    attention = importlib.import_module("xformers.ops").memory_efficient_attention
    q, k, v = (part.transpose(1, 2) for part in packed_heads.split(qkv, heads, encoder_kv))
    return packed_heads.merge(attention(q, k, v).transpose(1, 2))
