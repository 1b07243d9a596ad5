"""Kernels of other packages for the same work, a file for each. None is required: one that is missing or cannot run says why."""

from __future__ import annotations

from benchmarks.contestants import liger_kernel, sageattention, torch_sdpa, torchnorm, xformers
from benchmarks.contestants.description import AttentionCall, Description, NormCall
from benchmarks.contestants.peer import Peer
from glide_fast.bench.contest import Unable

__all__ = ["AttentionCall", "Description", "NormCall", "Peer", "Unable", "peers"]

_PEERS: dict[type[Description] | None, tuple[Peer, ...]] = {
    NormCall: (*liger_kernel.PEERS, *torchnorm.PEERS),
    AttentionCall: (*torch_sdpa.PEERS, *xformers.PEERS, *sageattention.PEERS),
    None: (),
}


def peers(description: type[Description] | None) -> tuple[Peer, ...]:
    """The packages that could compete on calls with a description of this type."""
    return _PEERS[description]
