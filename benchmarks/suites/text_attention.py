"""text_attention at the levels of GLIDE's networks that attend, with 128 tokens of text before the image's, and in their text
transformer, with its own tokens only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.case import PLAIN, Case
from benchmarks.contestants import AttentionCall
from glide_fast.ops import text_attention
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.reference import reference

TEXT = 128
HEAD = 64
# (tokens, heads) of 32 x 32, 16 x 16 and 8 x 8.
BASE = ((1024, 6), (256, 9), (64, 12))
UPSAMPLER = ((1024, 6), (256, 12), (64, 12))
TRANSFORMER = (TEXT, 8)


def case(
    model: str, n: int, tokens: int, heads: int, device: str, compile_too: bool, text_tokens: int = TEXT
) -> Case:
    """One size; fp16 on CUDA and bf16 on the CPU."""
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    generator = torch.Generator().manual_seed(tokens + heads)

    def packed(parts: int, length: int) -> torch.Tensor:
        # As a 1x1 convolution leaves it in a channels-last network: a token's channels side by side.
        values = torch.randn(n, length, parts * heads * HEAD, generator=generator)
        return values.to(device, dtype).transpose(1, 2)

    qkv, text = packed(3, tokens), packed(2, text_tokens) if text_tokens else None

    def plain() -> list[torch.Tensor]:
        q, k, v = qkv.unflatten(1, (heads, 3, HEAD)).unbind(2)
        if text is not None:
            text_k, text_v = text.unflatten(1, (heads, 2, HEAD)).unbind(2)
            k, v = torch.cat([text_k, k], dim=-1), torch.cat([text_v, v], dim=-1)
        out = F.scaled_dot_product_attention(q.mT, k.mT, v.mT)
        return [out.mT.flatten(1, 2)]

    def official() -> list[torch.Tensor]:
        return [reference(qkv, heads, text)]

    def truth() -> list[torch.Tensor]:
        return [reference(qkv.double(), heads, None if text is None else text.double())]

    def ours() -> list[torch.Tensor]:
        return [text_attention(qkv, heads, text)]

    made = Case(
        op="text_attention",
        model=model,
        shape=f"{n}x{heads}x{HEAD}, {tokens} + {text_tokens} tokens",
        dtype=dtype,
        device=device,
        truth=truth,
        baselines={PLAIN: plain, "official chain, fp32 softmax": official},
        moved_bytes=(qkv.numel() * 4 // 3 + (0 if text is None else text.numel())) * qkv.element_size(),
        flops=4 * n * heads * HEAD * tokens * (tokens + text_tokens),
    )
    made.add_backends(ours)
    made.add_peers(AttentionCall(lambda: packed_heads.split(qkv, heads, text), packed_heads.merge))
    if compile_too:
        made.add_compiled("torch.compile of plain torch", plain)
    return made


def cases(device: str, compile_too: bool, quick: bool) -> Iterator[Case]:
    """All sizes, or with ``quick`` one of each model."""
    for model, batches, sizes in (("base", (2, 8, 32), BASE), ("upsampler", (1, 4), UPSAMPLER)):
        for n in batches[:1] if quick else batches:
            for tokens, heads in sizes[-1:] if quick else sizes:
                yield case(model, n, tokens, heads, device, compile_too)
        if not quick:
            yield case(model, batches[0], *TRANSFORMER, device, compile_too, text_tokens=0)
