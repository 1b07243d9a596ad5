"""Liger-Kernel's Triton group norm. It reads NCHW and fuses nothing: copies and the rest of the chain are part of its time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.contestants.description import NormCall
from benchmarks.contestants.peer import Peer, load, named, need_cuda

PACKAGE = "liger-kernel"


def prepare(call: NormCall) -> Callable[[], list[torch.Tensor]]:
    norm = load("liger_kernel.ops.group_norm", PACKAGE).LigerGroupNormFunction
    need_cuda(call.x)
    channels = call.x.shape[1]

    def run() -> list[torch.Tensor]:
        y = norm.apply(call.x.contiguous(), call.weight, call.bias, channels, call.groups, call.eps)
        return call.finish(y)

    return run


PEERS = (Peer(named("Liger-Kernel", PACKAGE), prepare),)
