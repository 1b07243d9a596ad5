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
    """The state before any key was seen: accumulated, largest and total of :func:`take_in`."""
    accumulated = tl.zeros((QUERIES, HEAD_PADDED), tl.float32)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    return accumulated, largest, tl.zeros((QUERIES,), tl.float32)


@triton.jit
def take_in(
    accumulated,  # fp32 [QUERIES, HEAD_PADDED], weighted values
    largest,  # fp32 [QUERIES], of the logits so far, times scale
    total,  # fp32 [QUERIES], of the weights
    logits,  # fp32 [QUERIES, KEYS], products of queries and keys; -inf for a key that a query does not see
    values,  # [KEYS, HEAD_PADDED]
    scale,  # log2(e) / sqrt(HEAD), positive
    PRECISION: tl.constexpr,
):
    """The state after one more block of keys."""
    # The scale is positive, so the largest logit can be found before it is applied, and scale and maximum then take one fused
    # multiply-add an element. ``largest`` is rounded once; every weight, and ``shrink``, is taken relative to the rounded value.
    new_largest = tl.maximum(largest, tl.max(logits, axis=1) * scale)
    weights = tl.exp2(logits * scale - new_largest[:, None])
    shrink = tl.exp2(largest - new_largest)
    total = total * shrink + tl.sum(weights, axis=1)
    accumulated = tl.dot(
        weights.to(values.dtype), values, accumulated * shrink[:, None], input_precision=PRECISION
    )
    return accumulated, new_largest, total


@triton.jit
def attend_to(
    accumulated,  # the state, as in take_in
    largest,
    total,
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
        logits = tl.dot(q, keys, input_precision=PRECISION)
        if not EVEN:
            logits = tl.where(there[None, :], logits, float("-inf"))
        if CAUSAL:
            logits = tl.where(at[None, :] <= query[:, None], logits, float("-inf"))
        accumulated, largest, total = take_in(accumulated, largest, total, logits, values, scale, PRECISION)
    return accumulated, largest, total


@triton.jit
def attend_to_both(
    accumulated,  # the state, as in take_in
    largest,
    total,
    q,  # [QUERIES, HEAD]
    first,  # the head's first key of the first run; its values lie behind it by HEAD channels, as in the second run
    second,
    first_channel_stride,
    first_token_stride,
    second_channel_stride,
    second_token_stride,
    first_length,  # keys, a multiple of KEYS
    second_length,
    scale,  # log2(e) / sqrt(HEAD)
    HEAD: tl.constexpr,  # a power of two
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The state after two runs of keys, in one loop: loads of the second run are on their way while the first one is walked."""
    channel = tl.arange(0, HEAD)
    key = tl.arange(0, KEYS)
    for start in tl.range(0, first_length + second_length, KEYS, num_stages=STAGES):
        in_first = start < first_length
        at = tl.where(in_first, start, start - first_length) + key
        k = tl.where(in_first, first, second)
        channel_stride = tl.where(in_first, first_channel_stride, second_channel_stride)
        token_stride = tl.where(in_first, first_token_stride, second_token_stride)
        keys = tl.load(k + channel[:, None] * channel_stride + at[None, :] * token_stride)
        v = k + HEAD * channel_stride
        values = tl.load(v + at[:, None] * token_stride + channel[None, :] * channel_stride)
        logits = tl.dot(q, keys, input_precision=PRECISION)
        accumulated, largest, total = take_in(accumulated, largest, total, logits, values, scale, PRECISION)
    return accumulated, largest, total
