"""xformers' memory_efficient_attention, called without glide_fast around it; it takes [N, tokens, heads, head_size]."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.contestants.description import AttentionCall
from benchmarks.contestants.peer import Peer, Unable, load, named, need_cuda

PACKAGE = "xformers"


def prepare(call: AttentionCall) -> Callable[[], list[torch.Tensor]]:
    library = load("xformers.ops", PACKAGE)
    need_cuda(call.split()[0])
    if call.mask is not None:
        raise Unable("it takes additive biases with strides of its own, not a boolean mask")
    bias = library.LowerTriangularMask() if call.causal else None

    def run() -> list[torch.Tensor]:
        q, k, v = (part.transpose(1, 2) for part in call.split())
        return [call.merge(library.memory_efficient_attention(q, k, v, attn_bias=bias).transpose(1, 2))]

    return run


PEERS = (Peer(named("xformers", PACKAGE), prepare),)
