"""The calls of resample that GLIDE's models make: in residual blocks that halve or double the size."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, fused, held, sizes
from glide_fast.ops.resample.arguments import MEAN_2X2, NEAREST_X2, Call

FLOOR = 0.0

_BASE = (
    *((MEAN_2X2, side, channels) for side, channels in ((64, 192), (32, 384), (16, 576))),
    *((NEAREST_X2, side, channels) for side, channels in ((8, 768), (16, 576), (32, 384))),
)
_UPSAMPLER = (
    *(
        (MEAN_2X2, side, channels)
        for side, channels in ((256, 192), (128, 192), (64, 384), (32, 384), (16, 768))
    ),
    *(
        (NEAREST_X2, side, channels)
        for side, channels in ((8, 768), (16, 768), (32, 384), (64, 384), (128, 192))
    ),
)


def pixels(
    batch: int, channels: int, side: int, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """A channels-last picture ``[batch, channels, side, side]`` whose mean is not zero, like the activations of a network."""
    values = torch.randn(batch, side, side, channels, generator=generator) * 0.5 + 2.3
    return values.to(dtype).permute(0, 3, 1, 2)


def _draw(
    mode: str,
    side: int,
    channels: int,
    added: bool,
    batch: int,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> dict[str, Any]:
    arguments: dict[str, Any] = {"x": pixels(batch, channels, side, dtype, generator), "mode": mode}
    if added:
        arguments["bias"] = torch.randn(channels, generator=generator).to(dtype)
        arguments["residual"] = pixels(batch, channels, side, dtype, generator)
    return arguments


def _cases() -> Iterator[Case]:
    for model, batches, calls in (("base", (2, 8, 32), _BASE), ("upsampler", (1, 4), _UPSAMPLER)):
        for mode, side, channels in calls:
            for added in (False, True):
                # In GLIDE's blocks the norm before has computed the sum; models without `resblock_updown` sum here.
                name = f"{side}px {channels} {mode}{' bias residual' if added else ''}"
                draw, small = (partial(_draw, mode, s, channels, added) for s in (side, min(side, 8)))
                yield Case("resample", model, name, batches, draw, small)


CASES = tuple(_cases())


def cost(call: Call) -> Cost:
    """x, bias and residual are read; four times or a quarter of x is written."""
    up = call.mode == NEAREST_X2
    written = held(call.x) * 4 if up else held(call.x) // 4
    added = (call.bias is not None) + (call.residual is not None)
    return Cost(held(*call.tensors) + written, (added + (not up)) * call.x.numel())


def describe(call: Call) -> str:
    """Such as ``2x192x64x64, mean_2x2 + bias``."""
    return f"{sizes(call.x)}, {call.mode}{fused(bias=call.bias, residual=call.residual)}"
