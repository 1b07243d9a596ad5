"""What other packages offer for the same work, one a file. None is required: what is absent, or cannot, says so."""

from __future__ import annotations

from benchmarks.contestants import liger_kernel, sageattention, torch_sdpa, torchnorm, xformers
from benchmarks.contestants.description import AttentionCall, Description, NormCall
from benchmarks.contestants.peer import Peer, Unable

__all__ = ["AttentionCall", "Description", "NormCall", "Peer", "Unable", "peers"]

NORMS = (*liger_kernel.PEERS, *torchnorm.PEERS)
ATTENTIONS = (*torch_sdpa.PEERS, *xformers.PEERS, *sageattention.PEERS)


def peers(call: Description) -> tuple[Peer, ...]:
    """All that could compete on such a call."""
    return NORMS if isinstance(call, NormCall) else ATTENTIONS
