"""The loop that attention kernels share: a tile of queries walks a run of keys with the online softmax.

Milakov and Gimelshein (2018), as in FlashAttention (Dao et al. 2022). Keys and values are strided views, read in place.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def empty(QUERIES: tl.constexpr, HEAD_PADDED: tl.constexpr):
    """The state before any key was seen: accumulated, largest and total of :func:`attend_to`."""
    accumulated = tl.zeros((QUERIES, HEAD_PADDED), tl.float32)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    return accumulated, largest, tl.zeros((QUERIES,), tl.float32)


@triton.jit
def attend_to(
    accumulated,  # fp32 [QUERIES, HEAD_PADDED], weighted values
    largest,  # fp32 [QUERIES], of the logits so far, in base 2
    total,  # fp32 [QUERIES], of the weights
    q,  # [QUERIES, HEAD_PADDED]
    query,  # [QUERIES], positions of the queries; read where CAUSAL
    k,  # the head's first key
    v,
    k_channel_stride,
    k_token_stride,
    v_channel_stride,
    v_token_stride,
    length,  # keys
    scale,  # log2(e) / sqrt(HEAD)
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    KEYS: tl.constexpr,
    EVEN: tl.constexpr,  # length is a multiple of KEYS
    CAUSAL: tl.constexpr,  # a query sees no key behind its own position
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The state after ``length`` more keys. Where CAUSAL every query must see the first of them."""
    channel = tl.arange(0, HEAD_PADDED)
    key = tl.arange(0, KEYS)
    known = channel < HEAD
    for start in tl.range(0, length, KEYS, num_stages=STAGES):
        at = start + key
        there = at < length
        k_at = k + channel[:, None] * k_channel_stride + at[None, :] * k_token_stride
        v_at = v + at[:, None] * v_token_stride + channel[None, :] * v_channel_stride
        if EVEN and HEAD == HEAD_PADDED:
            keys = tl.load(k_at)
            values = tl.load(v_at)
        else:
            # Zeros, whatever lies there: 0 * NaN would be NaN.
            keys = tl.load(k_at, mask=known[:, None] & there[None, :], other=0.0)
            values = tl.load(v_at, mask=there[:, None] & known[None, :], other=0.0)
        logits = tl.dot(q, keys, input_precision=PRECISION) * scale
        if not EVEN:
            logits = tl.where(there[None, :], logits, float("-inf"))
        if CAUSAL:
            logits = tl.where(at[None, :] <= query[:, None], logits, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(logits, axis=1))
        weights = tl.exp2(logits - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(weights, axis=1)
        accumulated = tl.dot(
            weights.to(values.dtype), values, accumulated * shrink[:, None], input_precision=PRECISION
        )
        largest = new_largest
    return accumulated, largest, total
