"""resample at the sizes of GLIDE's resizing blocks, channels-last: alone, and with bias and residual on the way in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.case import PLAIN, Case
from glide_fast.ops import resample

# (side, channels) of the input where a block goes down to half, and up to twice.
BASE = {
    "mean_2x2": ((64, 192), (32, 384), (16, 576)),
    "nearest_x2": ((8, 768), (16, 576), (32, 384)),
}
UPSAMPLER = {
    "mean_2x2": ((256, 192), (128, 192), (64, 384), (32, 384), (16, 576)),
    "nearest_x2": ((8, 768), (16, 576), (32, 384), (64, 384), (128, 192)),
}


def case(
    model: str, n: int, side: int, channels: int, mode: str, added: bool, device: str, compile_too: bool
) -> Case:
    """One size; fp16 on CUDA and bf16 on the CPU, as models run there. ``added``: with a bias and a residual on the way in."""
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    generator = torch.Generator().manual_seed(channels + side)

    def picture() -> torch.Tensor:
        values = torch.randn(n, channels, side, side, generator=generator) * 0.5 + 2.3
        return values.to(device, dtype).to(memory_format=torch.channels_last)

    x = picture()
    bias = torch.randn(channels, generator=generator).to(device) if added else None
    residual = picture() if added else None
    up = mode == "nearest_x2"

    def resized(s: torch.Tensor) -> list[torch.Tensor]:
        return [F.interpolate(s, scale_factor=2.0, mode="nearest") if up else F.avg_pool2d(s, 2)]

    def plain() -> list[torch.Tensor]:
        if bias is None or residual is None:
            return resized(x)
        return resized(x + bias.to(dtype).view(-1, 1, 1) + residual)

    def truth() -> list[torch.Tensor]:
        if bias is None or residual is None:
            return resized(x.double())
        return resized(x.double() + bias.double().view(-1, 1, 1) + residual.double())

    def ours() -> list[torch.Tensor]:
        return [resample(x, mode, bias=bias, residual=residual)]

    elements = x.numel() * ((4 if up else 0.25) + (2 if added else 1))
    made = Case(
        op="resample",
        model=model,
        shape=f"{n}x{channels}x{side}x{side} {mode}{' added' if added else ''}",
        dtype=dtype,
        device=device,
        truth=truth,
        baselines={PLAIN: plain},
        moved_bytes=int(elements * x.element_size()),
        flops=x.numel() * ((2 if added else 0) + (0 if up else 1)),
    )
    made.add_backends(ours)
    if compile_too:
        made.add_compiled("torch.compile of plain torch", plain)
    return made


def cases(device: str, compile_too: bool, quick: bool) -> Iterator[Case]:
    """All sizes, or with ``quick`` one of each model and mode."""
    for model, batches, sizes in (("base", (2, 8, 32), BASE), ("upsampler", (1, 4), UPSAMPLER)):
        for n in batches[:1] if quick else batches:
            for mode, shapes in sizes.items():
                for side, channels in shapes[1:2] if quick else shapes:
                    for added in (False, True):
                        yield case(model, n, side, channels, mode, added, device, compile_too)
