"""The ways to make the calls of text_attention without glide_fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.contestants import AttentionCall
from benchmarks.contests import PLAIN, Arguments, Baseline
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.reference import reference

DESCRIPTION = AttentionCall


def plain(a: Arguments) -> list[torch.Tensor]:
    q, k, v = packed_heads.split(a["qkv"], a["heads"], a["encoder_kv"])
    return [packed_heads.merge(F.scaled_dot_product_attention(q, k, v))]


def official(a: Arguments) -> list[torch.Tensor]:
    """Two matrix products and an fp32 softmax."""
    return [reference(a["qkv"], a["heads"], a["encoder_kv"])]


BASELINES = {PLAIN: Baseline(plain), "official chain, fp32 softmax": Baseline(official)}


def describe(a: Arguments) -> AttentionCall:
    """The call as a description for other packages, with the copies that its packed layout makes necessary."""
    return AttentionCall(
        lambda: packed_heads.split(a["qkv"], a["heads"], a["encoder_kv"]), packed_heads.merge
    )
