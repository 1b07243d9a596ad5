"""torchnorm's GroupNorm module (0.1.2 still calls torch's own). The rest of the chain is eager torch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.contestants.description import NormCall
from benchmarks.contestants.peer import Peer, load, named

PACKAGE = "torchnorm"


def prepare(call: NormCall) -> Callable[[], list[torch.Tensor]]:
    module = load("torchnorm", PACKAGE).GroupNorm(call.groups, call.x.shape[1], eps=call.eps)
    norm = module.to(call.x.device, call.x.dtype).requires_grad_(False)
    norm.load_state_dict({"weight": call.weight, "bias": call.bias})
    return lambda: call.finish(norm(call.x))


PEERS = (Peer(named("torchnorm", PACKAGE), prepare),)
