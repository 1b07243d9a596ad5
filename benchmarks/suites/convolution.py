"""convolution at the sizes of GLIDE's networks, channels-last: the residual blocks' 3x3, the projections' 1x1, both ends."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.case import PLAIN, Case
from glide_fast.ops import convolution
from glide_fast.ops.convolution import OP
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not
from glide_fast.ops.convolution.reference import reference

# (side, channels in, channels out, kernel, skip connection added): of each level the block's second convolution, the first one
# behind a concatenation, attention's qkv and its projection back.
BASE = (
    (64, 3, 192, 3, False),
    (64, 192, 6, 3, False),
    (64, 192, 192, 3, True),
    (64, 384, 192, 3, False),
    (64, 384, 192, 1, False),
    (32, 384, 384, 3, True),
    (32, 768, 384, 3, False),
    (32, 384, 1152, 1, False),
    (32, 384, 384, 1, True),
    (16, 576, 576, 3, True),
    (16, 1152, 576, 3, False),
    (16, 576, 1728, 1, False),
    (16, 576, 576, 1, True),
    (8, 768, 768, 3, True),
    (8, 1536, 768, 3, False),
    (8, 768, 2304, 1, False),
    (8, 768, 768, 1, True),
)
UPSAMPLER = (
    (256, 6, 192, 3, False),
    (256, 192, 192, 3, True),
    (256, 384, 192, 3, False),
    (128, 192, 192, 3, True),
    (128, 384, 192, 3, False),
    (64, 384, 384, 3, True),
    (64, 768, 384, 3, False),
    (32, 384, 384, 3, True),
    (32, 768, 384, 3, False),
    (16, 768, 768, 3, True),
    (16, 1536, 768, 3, False),
    (8, 1536, 768, 3, False),
    (8, 768, 768, 3, True),
)


def case(
    model: str,
    n: int,
    side: int,
    channels: int,
    outputs: int,
    kernel: int,
    skip: bool,
    device: str,
    compile_too: bool,
) -> Case:
    """One size; fp16 on CUDA and bf16 on the CPU, as models run there. On the CPU the op's weight is packed beforehand."""
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    generator = torch.Generator().manual_seed(channels + outputs + side)

    def normal(*shape: int) -> torch.Tensor:
        value = torch.randn(shape, generator=generator).to(device, dtype)
        return value.to(memory_format=torch.channels_last) if len(shape) == 4 else value

    x, bias = normal(n, channels, side, side), normal(outputs)
    residual = normal(n, outputs, side, side) if skip else None
    weight = normal(outputs, channels, kernel, kernel) * (channels * kernel * kernel) ** -0.5
    packs = device == "cpu" and why_not(dtype) is None
    packed, tiled = (
        PackedWeight.pack(weight, input_shape=x.shape, tile=tile) if packs else weight
        for tile in (False, True)
    )
    padding = (kernel // 2, kernel // 2)

    def plain() -> list[torch.Tensor]:
        y = F.conv2d(x, weight, bias, padding=padding)
        return [y if residual is None else y + residual]

    def official() -> list[torch.Tensor]:
        y = F.conv2d(official_x, official_weight, bias, padding=padding)
        return [y if official_residual is None else y + official_residual]

    official_x, official_weight = x.contiguous(), weight.contiguous()
    official_residual = None if residual is None else residual.contiguous()

    def truth() -> list[torch.Tensor]:
        # Sample by sample: torch unfolds all of a batch in fp64.
        wide = weight.double(), bias.double()
        skips = [None] * n if residual is None else residual.double().split(1)
        samples = zip(x.double().split(1), skips, strict=True)
        return [torch.cat([reference(a, *wide, b, (1, 1), padding) for a, b in samples])]

    def ours() -> list[torch.Tensor]:
        # Each backend reads its own layout; the other's it would unpack at every call.
        ours_weight = tiled if OP.forced() == "winograd" else packed
        return [convolution(x, ours_weight, bias, residual=residual)]

    result = n * outputs * side * side
    made = Case(
        op="convolution",
        model=model,
        shape=f"{n}x{channels}x{side}x{side} to {outputs}, {kernel}x{kernel}{', skip' if skip else ''}",
        dtype=dtype,
        device=device,
        truth=truth,
        baselines={PLAIN: plain, "official layout (channels first)": official},
        moved_bytes=(x.numel() + weight.numel() + (2 if skip else 1) * result) * x.element_size(),
        flops=2 * result * channels * kernel * kernel,
    )
    made.add_backends(ours)
    if compile_too:
        made.add_compiled("torch.compile of plain torch", plain)
    return made


def cases(device: str, compile_too: bool, quick: bool) -> Iterator[Case]:
    """All sizes, or with ``quick`` one of each model."""
    for model, batches, sizes in (("base", (2, 8, 32), BASE), ("upsampler", (1, 4), UPSAMPLER)):
        for n in batches[:1] if quick else batches:
            for size in sizes[-1:] if quick else sizes:
                yield case(model, n, *size, device, compile_too)
