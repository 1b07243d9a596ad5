"""masked_attention in the noise-aware CLIP's two towers: prompts, causal and padded, and pictures without a mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.case import PLAIN, Case
from benchmarks.contestants import AttentionCall
from glide_fast.ops import masked_attention
from glide_fast.ops.masked_attention.heads import join, split, visible
from glide_fast.ops.masked_attention.reference import reference

HEAD = 64
LENGTH = 12  # tokens of an ordinary prompt, its start and end among them
# (tokens, heads, causal and padded)
TOWERS = {"clip text": (77, 8, True), "clip image": (257, 12, False)}


def case(model: str, n: int, tokens: int, heads: int, masked: bool, device: str, compile_too: bool) -> Case:
    """One size; fp16 on CUDA and bf16 on the CPU."""
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    generator = torch.Generator().manual_seed(tokens + heads)
    q, k, v = torch.randn(3, n, tokens, heads * HEAD, generator=generator).to(device, dtype).unbind()
    lengths = torch.full((n,), min(LENGTH, tokens), device=device) if masked else None
    seen = None if lengths is None else visible(tokens, True, lengths)

    def heads_apart() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return split(q, heads), split(k, heads), split(v, heads)

    def plain() -> list[torch.Tensor]:
        return [join(F.scaled_dot_product_attention(*heads_apart(), attn_mask=seen))]

    def official() -> list[torch.Tensor]:
        return [reference(q, k, v, heads, causal=masked, lengths=lengths)]

    def truth() -> list[torch.Tensor]:
        return [reference(q.double(), k.double(), v.double(), heads, causal=masked, lengths=lengths)]

    def ours() -> list[torch.Tensor]:
        return [masked_attention(q, k, v, heads, causal=masked, lengths=lengths)]

    made = Case(
        op="masked_attention",
        model=model,
        shape=f"{n}x{heads}x{HEAD}, {tokens} tokens" + (f", causal, {LENGTH} of them real" if masked else ""),
        dtype=dtype,
        device=device,
        truth=truth,
        # The mask is made beforehand: a tower could share it among its layers.
        baselines={PLAIN: plain, "fp32 softmax": official},
        moved_bytes=4 * q.numel() * q.element_size(),
        flops=4 * n * heads * HEAD * tokens * tokens,
    )
    made.add_backends(ours)
    made.add_peers(AttentionCall(heads_apart, join, mask=seen))
    if compile_too:
        made.add_compiled("torch.compile of plain torch", plain)
    return made


def cases(device: str, compile_too: bool, quick: bool) -> Iterator[Case]:
    """Both towers at 1, 8 and 32 samples, or with ``quick`` at 1."""
    for model, (tokens, heads, masked) in TOWERS.items():
        for n in (1,) if quick else (1, 8, 32):
            yield case(model, n, tokens, heads, masked, device, compile_too)
