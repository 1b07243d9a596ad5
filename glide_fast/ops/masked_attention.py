"""Attention under a mask, causal or by length: the noise-aware CLIP's text and image encoders (Radford et al. 2021, section 2.4).

Replaces the official chain of padding to a block multiple, permutes, two scalings, a dense additive mask and a softmax.
"""

from __future__ import annotations

import math

import torch

from glide_fast.errors import invalid


def check_arguments(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool, lengths: torch.Tensor | None
) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`masked_attention`."""
    if q.dim() != 3:
        raise invalid("q", tuple(q.shape), "a tensor of shape [N, T, heads * head_size]")
    n, queries, width = q.shape
    if heads < 1 or width % heads:
        raise invalid("heads", heads, f"a divisor of the width {width}")
    if k.dim() != 3 or (k.shape[0], k.shape[2]) != (n, width) or k.shape[1] < 1:
        raise invalid("k", tuple(k.shape), f"a tensor of shape [{n}, S, {width}] with S >= 1")
    if v.shape != k.shape:
        raise invalid("v", tuple(v.shape), f"the shape of k, {tuple(k.shape)}")
    if causal and k.shape[1] != queries:
        raise invalid(
            "causal", causal, f"False where queries ({queries}) and keys ({k.shape[1]}) differ in number"
        )
    if lengths is not None and (tuple(lengths.shape) != (n,) or lengths.is_floating_point()):
        raise invalid("lengths", (lengths.dtype, tuple(lengths.shape)), f"{n} integers, one a sample")


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`masked_attention`."""
    head_size = q.shape[-1] // heads
    # The same scaling of both factors as in text_attention: logits stay in fp16's range.
    scale = 1.0 / math.sqrt(math.sqrt(head_size))
    q, k, v = (x.unflatten(-1, (heads, head_size)).transpose(1, 2) for x in (q, k, v))
    logits = ((q * scale) @ (k * scale).transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32))
    positions = torch.arange(k.shape[-2], device=q.device)
    if causal:
        logits = logits.masked_fill(positions > positions[:, None], -math.inf)
    if lengths is not None:
        logits = logits.masked_fill(positions >= lengths[:, None, None, None], -math.inf)
    probabilities = torch.softmax(logits, dim=-1).to(v.dtype)
    return (probabilities @ v).transpose(1, 2).flatten(2)


def masked_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multi-head scaled dot-product attention where each query sees a prefix of the keys.

    Args:
        q: ``[N, T, heads * head_size]``, head after head along the last dimension; any strides; fp16, bf16, fp32 or fp64.
        k, v: ``[N, S, heads * head_size]`` of the same type.
        heads: number of heads.
        causal: query i sees keys 0 to i; T must be S.
        lengths: ``[N]`` integers from 1 to S, keys that a sample has; later ones are padding and are not seen. None: all S.
            A length of 0 leaves nothing to average and gives NaN.

    Returns:
        ``[N, T, heads * head_size]`` in the type of ``v``. Softmax is taken in fp32 (fp64 stays fp64). Queries behind a
        sample's length are computed as well; what they hold is up to the caller to ignore.

    Raises:
        InvalidInputError: for shapes outside this contract.
    """
    check_arguments(q, k, v, heads, causal, lengths)
    return reference(q, k, v, heads, causal=causal, lengths=lengths)
