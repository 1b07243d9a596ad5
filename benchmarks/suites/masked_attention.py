"""The ways to make the calls of masked_attention without glide_fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.contestants import AttentionCall
from benchmarks.contests import PLAIN, Arguments, Baseline
from glide_fast.ops.masked_attention.heads import join, split, visible
from glide_fast.ops.masked_attention.reference import reference

DESCRIPTION = AttentionCall


def with_mask(a: Arguments) -> Arguments:
    """The arguments with a mask of the keys that are seen; an encoder could compute it once for all of its layers."""
    lengths = a.get("lengths")
    seen = None if lengths is None else visible(a["k"].shape[1], a["causal"], lengths)
    return a | {"seen": seen}


def plain(a: Arguments) -> list[torch.Tensor]:
    q, k, v = (split(a[name], a["heads"]) for name in "qkv")
    causal = a["causal"] and a["seen"] is None
    return [join(F.scaled_dot_product_attention(q, k, v, attn_mask=a["seen"], is_causal=causal))]


def official(a: Arguments) -> list[torch.Tensor]:
    """Two matrix products and an fp32 softmax."""
    return [reference(a["q"], a["k"], a["v"], a["heads"], causal=a["causal"], lengths=a["lengths"])]


BASELINES = {PLAIN: Baseline(plain, with_mask), "fp32 softmax": Baseline(official)}


def describe(a: Arguments) -> AttentionCall:
    """The call as a description for other packages."""

    def heads_apart() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return split(a["q"], a["heads"]), split(a["k"], a["heads"]), split(a["v"], a["heads"])

    return AttentionCall(heads_apart, join, a["causal"] and a["seen"] is None, a["seen"])
