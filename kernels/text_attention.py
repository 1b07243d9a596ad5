"""text_attention: one pass over two segments of keys, both read where GLIDE's packed layouts hold them.

A program owns a tile of queries of one head and walks the text's keys, then the image's, with the shared online softmax.
Nothing is concatenated or permuted: a head's q, k and v are strided views, and the same kernel reads the official layout
(tokens side by side) and the channels-last one. Where both runs of keys are whole numbers of tiles they are one loop, so that
loads of the image's keys are under way while the text's are walked: three tiles in all at the level of 8x8 pixels.
"""

# mypy: disable-error-code="no-untyped-def"
# Kernels are typed by what they are launched with.

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from glide_fast.ops.case import fake_calls

from .build import ELEMENTS, Build, launch_options
from .occupancy import DEVICES
from .online_softmax import attend_to, attend_to_both, empty

FILL = 132  # multiprocessors of an H100
SHARED = DEVICES[80].shared_of_a_block  # bytes that a program may take on every device


class Tiles(NamedTuple):
    """How a shape is cut up; see :func:`tiles`."""

    queries: int  # in a program
    keys: int  # in a step
    warps: int
    stages: int  # steps whose keys and values are on their way
    registers: int = 0  # of a thread, at most; 0 leaves it to the compiler

    def shared_bytes(self, head: int, itemsize: int) -> int:
        """Of a program, at most: its queries, and the keys and values that are on their way."""
        width = max(16, triton.next_power_of_2(head))
        return (self.queries + 2 * self.stages * self.keys) * width * itemsize

    def why_not(self, head: int, itemsize: int) -> str | None:
        """What the kernel cannot do with this cut, or None."""
        for name, least, most in (("queries", 16, 256), ("keys", 16, 256), ("warps", 1, 16)):
            value = getattr(self, name)
            if value & (value - 1) or not least <= value <= most:
                return f"{name}={value}; accepted: a power of two from {least} to {most}"
        if not 1 <= self.stages <= 8:
            return f"stages={self.stages}; accepted: 1 to 8"
        if self.registers and (self.registers % 8 or not 64 <= self.registers <= 248):
            return f"registers={self.registers}; accepted: 0, or a multiple of 8 from 64 to 248"
        if (asked := self.shared_bytes(head, itemsize)) > SHARED:
            return f"{asked} bytes of shared memory for heads of {head}; accepted: {SHARED} at most"
        return None


def tiles(heads: int, tokens: int, head: int, itemsize: int) -> Tiles:
    """The cut: a pure function of the shape, unmeasured on a device.

    Args:
        heads: of all samples together.
        tokens: queries of a head.
        head: channels in a head.
        itemsize: bytes of an element.
    """
    if itemsize == 4:
        # Exact fp32 products do not run on tensor cores; only small tiles stay in registers.
        return Tiles(16, 16, 4, 1) if head > 64 else Tiles(64, 32, 8, 1)
    if tokens % 128 or heads * (tokens // 64) < 2 * FILL:
        return Tiles(64, 32, 4, 2) if head > 64 else Tiles(64, 64, 4, 3)
    return Tiles(128, 64, 8, 2 if head > 64 else 3)


@functools.cache
def plans(heads: int, tokens: int, head: int, itemsize: int, text_tokens: int = 0) -> tuple[Tiles, ...]:
    """Every cut that is worth a measurement, the guess of :func:`tiles` first, whose arguments are the first four.

    In half precision: 64 or 128 queries, 64 or 128 keys a step, a warp for 16 or 32 queries, and 2 to 4 steps under way; fewer
    queries for grids that leave most of a device idle. Left out are those that cut the tokens unevenly where the guess does not,
    and those that want more registers or shared memory than there are.
    """
    guess = tiles(heads, tokens, head, itemsize)
    if itemsize == 4:
        found = [Tiles(16, 16, 4, 1), Tiles(32, 32, 4, 1), Tiles(64, 16, 4, 1), Tiles(64, 32, 8, 1)]
        return tuple(dict.fromkeys([guess, *found]))
    width = max(16, triton.next_power_of_2(head))
    found = [Tiles(32, 64, 2, 3), Tiles(16, 64, 4, 2)] if heads * triton.cdiv(tokens, 64) < FILL else []
    for queries, keys in ((64, 64), (128, 64), (128, 128), (64, 128)):
        for warps in (queries // 16, queries // 32):
            # 128 registers let two programs of 256 threads share a multiprocessor.
            limits = (0, 128) if (queries, keys, warps, width) == (128, 128, 8, 64) else (0,)
            # Sums, logits and their weights in half precision, of a thread; the rest of 255 is for addresses and statistics.
            if queries * (width + keys + keys // 2) <= 192 * 32 * warps:
                found += [Tiles(queries, keys, warps, *rest) for rest in itertools.product((3, 2, 4), limits)]

    def even(cut: Tiles) -> bool:
        return tokens % cut.queries == 0 and tokens % cut.keys == 0 and text_tokens % cut.keys == 0

    found = [cut for cut in found if cut.why_not(head, itemsize) is None and (even(cut) or not even(guess))]
    return tuple(dict.fromkeys([guess, *found]))


@triton.jit
def attend(
    qkv,  # [N, heads * 3 * HEAD, T]
    text,  # [N, heads * 2 * HEAD, S]
    out,  # [N, heads * HEAD, T]
    heads,
    tokens,  # T
    text_tokens,  # S
    scale,  # log2(e) / sqrt(HEAD)
    qkv_sample_stride,
    qkv_channel_stride,
    qkv_token_stride,
    text_sample_stride,
    text_channel_stride,
    text_token_stride,
    out_sample_stride,
    out_channel_stride,
    out_token_stride,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    EVEN: tl.constexpr,  # T is a multiple of both tiles
    TEXT: tl.constexpr,  # there are text keys
    TEXT_EVEN: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,  # launched while the kernel before it may still run
):
    """Grid (ceil(T / QUERIES), N * heads)."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    head = tl.program_id(1) % heads
    sample = (tl.program_id(1) // heads).to(tl.int64)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, HEAD_PADDED)
    inside = (query < tokens)[:, None] & (channel < HEAD)[None, :]

    q_at = qkv + sample * qkv_sample_stride + head * 3 * HEAD * qkv_channel_stride
    k_at = q_at + HEAD * qkv_channel_stride
    q_tile = q_at + query[:, None] * qkv_token_stride + channel[None, :] * qkv_channel_stride
    q = tl.load(q_tile) if EVEN and HEAD == HEAD_PADDED else tl.load(q_tile, mask=inside, other=0.0)

    accumulated, largest, total = empty(QUERIES, HEAD_PADDED)
    text_at = text + sample * text_sample_stride + head * 2 * HEAD * text_channel_stride
    if TEXT and TEXT_EVEN and EVEN and HEAD == HEAD_PADDED:
        accumulated, largest, total = attend_to_both(
            accumulated, largest, total, q, text_at, k_at,
            text_channel_stride, text_token_stride, qkv_channel_stride, qkv_token_stride,
            text_tokens, tokens, scale, HEAD, KEYS, STAGES, PRECISION,
        )  # fmt: skip
    else:
        if TEXT:
            accumulated, largest, total = attend_to(
                accumulated, largest, total, q, query, text_at, text_at + HEAD * text_channel_stride,
                text_channel_stride, text_token_stride, text_channel_stride, text_token_stride,
                text_tokens, scale, HEAD, HEAD_PADDED, KEYS, TEXT_EVEN, False, STAGES, PRECISION,
            )  # fmt: skip
        accumulated, largest, total = attend_to(
            accumulated, largest, total, q, query, k_at, k_at + HEAD * qkv_channel_stride,
            qkv_channel_stride, qkv_token_stride, qkv_channel_stride, qkv_token_stride,
            tokens, scale, HEAD, HEAD_PADDED, KEYS, EVEN, False, STAGES, PRECISION,
        )  # fmt: skip

    result = (accumulated / total[:, None]).to(out.dtype.element_ty)
    out_at = out + sample * out_sample_stride + head * HEAD * out_channel_stride
    out_tile = out_at + query[:, None] * out_token_stride + channel[None, :] * out_channel_stride
    if EVEN and HEAD == HEAD_PADDED:
        tl.store(out_tile, result)
    else:
        tl.store(out_tile, result, mask=inside)


def constants(
    cut: Tiles, head: int, tokens: int, text_tokens: int, itemsize: int, dependent: bool = False
) -> dict[str, object]:
    """The compile-time arguments of :func:`attend`."""
    return {
        "HEAD": head,
        "HEAD_PADDED": max(16, triton.next_power_of_2(head)),
        "QUERIES": cut.queries,
        "KEYS": cut.keys,
        "EVEN": tokens % cut.queries == 0 and tokens % cut.keys == 0,
        "TEXT": text_tokens > 0,
        "TEXT_EVEN": text_tokens % cut.keys == 0,
        "STAGES": cut.stages,
        "PRECISION": "ieee" if itemsize == 4 else "tf32",
        "DEPENDENT": dependent,
    }


def launch(
    qkv: torch.Tensor,
    out: torch.Tensor,
    heads: int,
    encoder_kv: torch.Tensor | None,
    cut: Tiles | None = None,
    dependent: bool = False,
) -> None:
    """Write the op of ``qkv`` ``[N, heads * 3 * head, T]`` and ``encoder_kv`` to ``out`` ``[N, heads * head, T]``; any strides.

    ``cut`` stands in place of what :func:`tiles` says. ``dependent``: by programmatic dependent launch, on devices that have it.
    """
    samples, width, tokens = qkv.shape
    head = width // (3 * heads)
    text_tokens = 0 if encoder_kv is None else encoder_kv.shape[2]
    text = qkv if encoder_kv is None else encoder_kv
    if cut is None:
        cut = tiles(samples * heads, tokens, head, qkv.element_size())
    attend[triton.cdiv(tokens, cut.queries), samples * heads](
        qkv, text, out, heads, tokens, text_tokens, math.log2(math.e) / math.sqrt(head),
        *qkv.stride(), *text.stride(), *out.stride(),
        **constants(cut, head, tokens, text_tokens, qkv.element_size(), dependent),
        num_warps=cut.warps, num_stages=cut.stages,
        **({"maxnreg": cut.registers} if cut.registers else {}), **launch_options(dependent),
    )  # fmt: skip


def builds(
    samples: int,
    heads: int,
    head: int,
    tokens: int,
    text_tokens: int,
    element: str = "fp16",
    channels_last: bool = True,
    cut: Tiles | None = None,
) -> list[Build]:
    """What :func:`launch` compiles for a shape. ``element``: qkv's Triton type; ``cut`` in place of what :func:`tiles` says."""
    itemsize = 4 if element == "fp32" else 2
    cut = tiles(samples * heads, tokens, head, itemsize) if cut is None else cut
    kinds = dict.fromkeys(("qkv", "text", "out"), f"*{element}")
    kinds |= {"heads": "i32", "tokens": "i32", "text_tokens": "i32", "scale": "fp32"}
    values = constants(cut, head, tokens, text_tokens, itemsize)
    unit = "channel" if channels_last else "token"  # Triton makes a constant of a stride of 1
    for tensor in ("qkv", "text", "out"):
        values[f"{tensor}_{unit}_stride"] = 1
        for axis in {"sample", "channel", "token"} - {unit}:
            kinds[f"{tensor}_{axis}_stride"] = "i32"
    layout = "channels-last" if channels_last else "official"
    label = (
        f"N {samples}, {heads} heads of {head}, {tokens} tokens + {text_tokens} of text, {element}, {layout}"
    )
    ordered = {name: kinds[name] for name in attend.arg_names if name in kinds}
    return [Build(attend, label, ordered, values, cut.warps, cut.stages)]


def plans_of(call: Any) -> tuple[Tiles, ...]:
    """:func:`plans` of a call (:class:`glide_fast.ops.text_attention.arguments.Call`)."""
    qkv, text = call.qkv, call.encoder_kv
    text_tokens = 0 if text is None else text.shape[2]
    return plans(qkv.shape[0] * call.heads, qkv.shape[2], call.head_size, qkv.element_size(), text_tokens)


def builds_of(call: Any, channels_last: bool = True, cut: Tiles | None = None) -> list[Build]:
    """What :func:`launch` compiles for a call (:class:`glide_fast.ops.text_attention.arguments.Call`), in either layout."""
    text_tokens = 0 if call.encoder_kv is None else call.encoder_kv.shape[2]
    samples, _, tokens = call.qkv.shape
    element = ELEMENTS[call.qkv.dtype]
    return builds(samples, call.heads, call.head_size, tokens, text_tokens, element, channels_last, cut)


def default_builds() -> list[Build]:
    """What one prompt launches in fp16, and the largest of these calls in the official layout."""
    calls = fake_calls("text_attention", torch.float16, "cuda", one_prompt=True)
    found = [build for call in calls for build in builds_of(call)]
    return found + builds_of(max(calls, key=lambda call: call.qkv.numel()), channels_last=False)


def candidate_builds() -> list[Build]:
    """Every plan of GLIDE's calls in fp16."""
    calls = fake_calls("text_attention", torch.float16, "cuda")
    return [build for call in calls for cut in plans_of(call) for build in builds_of(call, cut=cut)]


def shipped_builds() -> list[Build]:
    """GLIDE's calls in every type and both layouts, and other head sizes."""
    found = []
    for dtype, element in ELEMENTS.items():
        for call in fake_calls("text_attention", dtype, "cuda"):
            found += [*builds_of(call), *builds_of(call, channels_last=False)]
        for head in (32, 128):
            found += builds(2, 8, head, 128, 0, element)
            found += builds(64, 8, head, 1024, 77, element)
            found += builds(1, 8, head, 77, 0, element)
    return found
