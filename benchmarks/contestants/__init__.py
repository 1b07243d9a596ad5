"""What other packages offer for the same work, one a file. None is required: what is absent, or cannot, says so."""

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
    """All that could compete on calls that are described so."""
    return _PEERS[description]
