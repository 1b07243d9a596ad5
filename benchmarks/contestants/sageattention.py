"""SageAttention, which computes logits from 8-bit integers; the contest's limit on errors decides whether it passes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.contestants.description import AttentionCall
from benchmarks.contestants.peer import Peer, Unable, load, named, need_cuda

PACKAGE = "sageattention"
HEAD_SIZES = (64, 96, 128)


def prepare(call: AttentionCall) -> Callable[[], list[torch.Tensor]]:
    attention = load("sageattention", PACKAGE).sageattn
    q, first, _ = call.split()
    need_cuda(q)
    if q.shape[-1] not in HEAD_SIZES:
        raise Unable(f"heads are {q.shape[-1]} wide; it takes 64, 96 and 128")
    if call.mask is not None:
        raise Unable("it takes no mask but the causal one")
    # Version 1 subtracts the keys' mean in place, so keys that are a view of the op's input are copied first.
    view = call.split()[1].data_ptr() == first.data_ptr()

    def run() -> list[torch.Tensor]:
        q, k, v = (part if part.stride(-1) == 1 else part.contiguous() for part in call.split())
        out = attention(q, k.clone() if view else k, v, tensor_layout="HND", is_causal=call.causal)
        return [call.merge(out)]

    return run


PEERS = (Peer(named("SageAttention", PACKAGE), prepare),)
