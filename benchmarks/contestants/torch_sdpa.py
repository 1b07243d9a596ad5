"""torch's scaled_dot_product_attention, with each of its kernels forced by name: cuDNN, FlashAttention, memory-efficient."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.contestants.description import AttentionCall
from benchmarks.contestants.peer import Peer, Unable

KERNELS = {
    "SDPA, cuDNN": SDPBackend.CUDNN_ATTENTION,
    "SDPA, FlashAttention": SDPBackend.FLASH_ATTENTION,
    "SDPA, memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def prepare(kernel: SDPBackend, call: AttentionCall) -> Callable[[], list[torch.Tensor]]:
    def run() -> list[torch.Tensor]:
        q, k, v = call.split()
        with sdpa_kernel(kernel):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=call.mask, is_causal=call.causal)
        return [call.merge(out)]

    # torch gives the reason in warnings, and then raises that there is no kernel.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run()
        except RuntimeError as error:
            reasons = [str(warning.message).split(" (Triggered")[0] for warning in said] or [str(error)]
            raise Unable(" ".join(reasons[-1].split())) from error
    return run


PEERS = tuple(Peer(name, functools.partial(prepare, kernel)) for name, kernel in KERNELS.items())
