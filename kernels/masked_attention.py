"""masked_attention: each query attends to the first keys only, causal or up to the sample's length, which the kernel reads.

A program computes a tile of queries of one head with the online softmax of kernels/online_softmax.py. It reads only tiles of
keys that some query of the tile sees: none behind the tile's last position, or behind the sample's length. Nothing is permuted
or padded.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl

from glide_fast.ops.case import fake_calls

from .build import ELEMENTS, Build
from .online_softmax import attend_to, empty
from .text_attention import FILL, Tiles


def tiles(heads: int, queries: int, head: int, itemsize: int) -> Tiles:
    """The sizes of the tiles, as a function of the shape alone; not yet measured on a device.

    Args:
        heads: in all samples together.
        queries: in a head.
        head: channels in a head.
        itemsize: bytes of an element.
    """
    if itemsize == 4:
        # Exact fp32 products do not run on tensor cores; only small tiles stay in registers.
        return Tiles(16, 16, 4, 1) if head > 64 else Tiles(64, 32, 8, 1)
    # One prompt or one picture leaves most of a device idle: smaller tiles give more programs, and waste less of the last tile
    # (257 tokens).
    rows = 32 if heads * triton.cdiv(queries, 64) < FILL else 64
    return Tiles(rows, 32 if head > 64 else 64, 4, 2)


@functools.cache
def plans(heads: int, queries: int, head: int, itemsize: int) -> tuple[Tiles, ...]:
    """Every cut that is worth a measurement, the guess of :func:`tiles` first; the arguments are those."""
    if itemsize == 4:
        found = [Tiles(16, 16, 4, 1), Tiles(32, 32, 4, 1), Tiles(64, 32, 8, 1)]
    else:
        found = [Tiles(rows, keys, 4, stages) for rows in (32, 64) for keys in (32, 64) for stages in (2, 3)]
        found += [Tiles(16, 64, 4, 2), Tiles(64, 128, 4, 2), Tiles(128, 64, 8, 2)]
    return tuple(dict.fromkeys([tiles(heads, queries, head, itemsize), *found]))


@triton.jit
def attend_masked(
    q,  # [N, T, heads * HEAD]
    k,  # [N, S, heads * HEAD]
    v,  # [N, S, heads * HEAD]
    lengths,  # [N] integers
    out,  # [N, T, heads * HEAD]
    heads,
    queries,  # T
    keys,  # S
    scale,  # log2(e) / sqrt(HEAD)
    q_sample_stride,
    q_token_stride,
    q_channel_stride,
    k_sample_stride,
    k_token_stride,
    k_channel_stride,
    v_sample_stride,
    v_token_stride,
    v_channel_stride,
    out_sample_stride,
    out_token_stride,
    out_channel_stride,
    lengths_stride,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    EVEN: tl.constexpr,  # QUERIES divides T and KEYS divides S: no load or store needs a mask
    CAUSAL: tl.constexpr,
    LENGTHS: tl.constexpr,  # whether to read lengths
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid ceil(T / QUERIES) * N * heads, a head's tiles side by side."""
    tiles_of_head = tl.cdiv(queries, QUERIES)
    tile = tl.program_id(0) % tiles_of_head
    pair = tl.program_id(0) // tiles_of_head
    head = pair % heads
    sample = (pair // heads).to(tl.int64)
    query = tile * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, HEAD_PADDED)
    inside = (query < queries)[:, None] & (channel < HEAD)[None, :]

    seen = keys
    if CAUSAL:
        seen = tl.minimum(seen, (tile + 1) * QUERIES)
    if LENGTHS:
        seen = tl.minimum(seen, tl.load(lengths + sample * lengths_stride).to(tl.int32))

    q_at = q + sample * q_sample_stride + head * HEAD * q_channel_stride
    q_tile = q_at + query[:, None] * q_token_stride + channel[None, :] * q_channel_stride
    q_values = tl.load(q_tile) if EVEN and HEAD == HEAD_PADDED else tl.load(q_tile, mask=inside, other=0.0)
    k_at = k + sample * k_sample_stride + head * HEAD * k_channel_stride
    v_at = v + sample * v_sample_stride + head * HEAD * v_channel_stride

    accumulated, largest, total = empty(QUERIES, HEAD_PADDED)
    accumulated, largest, total = attend_to(
        accumulated, largest, total, q_values, query, k_at, v_at,
        k_channel_stride, k_token_stride, v_channel_stride, v_token_stride,
        seen, scale, HEAD, HEAD_PADDED, KEYS, EVEN, CAUSAL, STAGES, PRECISION,
    )  # fmt: skip

    result = (accumulated / total[:, None]).to(out.dtype.element_ty)
    out_at = out + sample * out_sample_stride + head * HEAD * out_channel_stride
    out_tile = out_at + query[:, None] * out_token_stride + channel[None, :] * out_channel_stride
    if EVEN and HEAD == HEAD_PADDED:
        tl.store(out_tile, result)
    else:
        tl.store(out_tile, result, mask=inside)


def constants(
    cut: Tiles, head: int, queries: int, keys: int, causal: bool, lengths: bool, itemsize: int
) -> dict[str, object]:
    """The compile-time arguments of :func:`attend_masked`."""
    whole = queries % cut.queries == 0 and keys % cut.keys == 0
    return {
        "HEAD": head,
        "HEAD_PADDED": max(16, triton.next_power_of_2(head)),
        "QUERIES": cut.queries,
        "KEYS": cut.keys,
        # Where causal, the last key that a tile sees is at the tile's end.
        "EVEN": whole and not lengths and not (causal and cut.queries % cut.keys),
        "CAUSAL": causal,
        "LENGTHS": lengths,
        "STAGES": cut.stages,
        "PRECISION": "ieee" if itemsize == 4 else "tf32",
    }


def launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    heads: int,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
    cut: Tiles | None = None,
) -> None:
    """Write the attention from ``q`` ``[N, T, heads * head]`` to ``k`` and ``v`` ``[N, S, heads * head]`` into ``out``.

    ``out`` has the shape of ``q``; all strides are accepted. ``cut``: sizes of tiles; None for those of :func:`tiles`.
    """
    samples, queries, width = q.shape
    head, keys = width // heads, k.shape[1]
    if cut is None:
        cut = tiles(samples * heads, queries, head, q.element_size())
    lengths_or_any = q if lengths is None else lengths  # without LENGTHS the kernel does not read it
    attend_masked[(triton.cdiv(queries, cut.queries) * samples * heads,)](
        q, k, v, lengths_or_any, out, heads, queries, keys, math.log2(math.e) / math.sqrt(head),
        *q.stride(), *k.stride(), *v.stride(), *out.stride(), lengths_or_any.stride(0),
        **constants(cut, head, queries, keys, causal, lengths is not None, q.element_size()),
        num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip


def builds(
    samples: int,
    heads: int,
    head: int,
    queries: int,
    keys: int,
    causal: bool = False,
    lengths: bool = False,
    element: str = "fp16",
    cut: Tiles | None = None,
) -> list[Build]:
    """The configuration that :func:`launch` compiles for dense tensors. ``element``: their Triton type; lengths are int64.

    ``cut`` replaces the choice of :func:`tiles`.
    """
    itemsize = 4 if element == "fp32" else 2
    cut = tiles(samples * heads, queries, head, itemsize) if cut is None else cut
    types = dict.fromkeys(("q", "k", "v", "out"), f"*{element}")
    types |= {"lengths": "*i64" if lengths else f"*{element}"}
    types |= {"heads": "i32", "queries": "i32", "keys": "i32", "scale": "fp32"}
    values = constants(cut, head, queries, keys, causal, lengths, itemsize)
    for tensor in ("q", "k", "v", "out"):
        values[f"{tensor}_channel_stride"] = 1  # Triton makes a constant of a stride of 1
        types |= {f"{tensor}_sample_stride": "i32", f"{tensor}_token_stride": "i32"}
    if lengths:
        values["lengths_stride"] = 1
    else:
        types["lengths_stride"] = "i32"
    mask = " and ".join([*["causal"] * causal, *["lengths"] * lengths]) or "no mask"
    label = f"N {samples}, {heads} heads of {head}, {queries} queries, {keys} keys, {mask}, {element}"
    ordered = {name: types[name] for name in attend_masked.arg_names if name in types}
    return [Build(attend_masked, label, ordered, values, cut.warps, cut.stages)]


def plans_of(call: Any) -> tuple[Tiles, ...]:
    """:func:`plans` of a call (:class:`glide_fast.ops.masked_attention.arguments.Call`)."""
    q = call.q
    return plans(q.shape[0] * call.heads, q.shape[1], call.head_size, q.element_size())


def candidate_builds() -> list[Build]:
    """Every plan of GLIDE's calls in fp16."""
    found = []
    for call in fake_calls("masked_attention", torch.float16, "cuda"):
        samples, queries, _ = call.q.shape
        shape = samples, call.heads, call.head_size, queries, call.k.shape[1]
        masks = call.causal, call.lengths is not None
        for cut in plans_of(call):
            found += builds(*shape, *masks, ELEMENTS[call.q.dtype], cut)
    return found


# The encoders of the noise-aware CLIP: heads, size of a head, queries, keys, whether causal, whether with lengths.
CLIP_TEXT = (8, 64, 77, 77, True, True)
CLIP_IMAGE = (12, 64, 257, 257, False, False)


def default_builds() -> list[Build]:
    """One prompt; one picture; eight pictures, which fill a device."""
    return [*builds(1, *CLIP_TEXT), *builds(1, *CLIP_IMAGE), *builds(8, *CLIP_IMAGE)]


def shipped_builds() -> list[Build]:
    """Both encoders at several batch sizes, and other head sizes, in every type; all masks."""
    found: list[Build] = []
    for element in ("fp16", "bf16", "fp32"):
        for samples in (1, 8, 32):
            found += builds(samples, *CLIP_TEXT, element)
            found += builds(samples, *CLIP_IMAGE, element)
        for head in (32, 128):
            found += builds(1, 8, head, 77, 77, True, False, element)
            found += builds(64, 8, head, 256, 256, True, False, element)
            found += builds(64, 8, head, 256, 77, False, True, element)
    return found
