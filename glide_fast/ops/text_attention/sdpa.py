"""torch's scaled_dot_product_attention as a backend of text_attention, with the concatenation that it needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.arguments import Call, Facts


def supports(facts: Facts) -> str | None:
    """Why it cannot serve this call, or None."""
    if not facts.alike:
        return "encoder_kv differs from qkv in type or device"
    if facts.empty:
        return "qkv holds no elements"
    return None


def worth(facts: Facts) -> str | None:
    """Why the reference is the better choice where nobody asks for this one, or None.

    On an AVX-512 core it took 0.4 (fp32) and 0.6 (bf16) of the reference's time for 1024 channels-last tokens, but up to
    4 times as much in most other cases; docs/explanation/kernels.md has the table.
    """
    if facts.device == "cuda":
        return None
    if facts.device != "cpu":
        return f"it was never measured on {facts.device}; force it to compare"
    if facts.gradients or facts.dtype not in (torch.float32, torch.bfloat16):
        return "on a CPU it was measured without gradients, in float32 and bfloat16 only; force it to compare"
    if not (facts.channels_last and facts.long):
        return "slower than the reference on a CPU for fewer tokens or this layout; force it to compare"
    return None


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; differentiable."""
    heads = packed_heads.split(call.qkv, call.heads, call.encoder_kv)
    return packed_heads.merge(F.scaled_dot_product_attention(*heads))
