"""group_norm_act with FiLM and SiLU at the sizes of GLIDE's residual blocks, channels-last.

Every contestant allocates its result at each call, as in a model, and plain torch its intermediate results too; the copy writes
to memory that is there. For results of tens of megabytes the allocator may return the memory in between, and the page
faults of getting it again are then part of a contestant's time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.case import PLAIN, Case
from benchmarks.contestants import NormCall
from glide_fast.ops import group_norm_act
from glide_fast.ops.group_norm_act.reference import reference

GROUPS = 32
# (side, channels): each level's own width, and with the skip connection beside it.
BASE = ((64, 192), (64, 384), (32, 384), (32, 768), (16, 576), (16, 1152), (8, 768), (8, 1536))
UPSAMPLER = ((256, 192), (256, 384), (128, 192), (128, 384), (64, 384), (64, 768), (32, 768))


def case(model: str, n: int, side: int, channels: int, device: str, compile_too: bool) -> Case:
    """One size; fp16 on CUDA and bf16 on the CPU, as models run there."""
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    generator = torch.Generator().manual_seed(channels + side)
    x = (torch.randn(n, channels, side, side, generator=generator) * 0.5 + 2.3).to(device, dtype)
    x = x.to(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, channels, generator=generator).to(device)
    scale, shift = torch.randn(n, 2 * channels, generator=generator).to(device, dtype).chunk(2, dim=1)
    view = (n, channels, 1, 1)
    low_weight, low_bias = weight.to(dtype), bias.to(dtype)

    def plain() -> list[torch.Tensor]:
        y = F.group_norm(x, GROUPS, low_weight, low_bias)
        return [F.silu(y * (1 + scale.view(view)) + shift.view(view))]

    def official() -> list[torch.Tensor]:
        y = F.group_norm(x.float(), GROUPS, weight, bias).to(dtype)
        return [F.silu(y * (1 + scale.view(view)) + shift.view(view))]

    def truth() -> list[torch.Tensor]:
        wide = (t.double() for t in (x, weight, bias))
        return [reference(*wide, GROUPS, 1e-5, scale.double(), shift.double(), True)]

    def ours() -> list[torch.Tensor]:
        return [group_norm_act(x, weight, bias, GROUPS, scale=scale, shift=shift, silu=True)]

    made = Case(
        op="group_norm_act",
        model=model,
        shape=f"{n}x{channels}x{side}x{side}",
        dtype=dtype,
        device=device,
        truth=truth,
        baselines={PLAIN: plain, "official fp32 chain": official},
        moved_bytes=2 * x.numel() * x.element_size(),
        flops=20 * x.numel(),
    )
    made.add_backends(ours)
    made.add_peers(NormCall(x, low_weight, low_bias, GROUPS, 1e-5, scale, shift, silu=True))
    if compile_too:
        made.add_compiled("torch.compile of plain torch", plain)
    return made


def cases(device: str, compile_too: bool, quick: bool) -> Iterator[Case]:
    """All sizes, or with ``quick`` one of each model."""
    for model, batches, sizes in (("base", (2, 8, 32), BASE), ("upsampler", (1, 4), UPSAMPLER)):
        for n in batches[:1] if quick else batches:
            for side, channels in sizes[-1:] if quick else sizes:
                yield case(model, n, side, channels, device, compile_too)
