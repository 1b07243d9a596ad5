"""GLIDE's calls of window_convolution: their arguments, what they cost at least, and how far a result may err.

They are the 3x3 convolutions that are the fastest this way at one of a model's batch sizes
(:mod:`glide_fast.ops.convolution.ways`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, held, sizes
from glide_fast.ops.convolution import ways
from glide_fast.ops.convolution.cases import BATCHES
from glide_fast.ops.group_norm_act.reference import windows
from glide_fast.ops.window_convolution.arguments import Call

FLOOR = 0.0
# Side of the picture, inputs and outputs of the residual blocks' convolutions.
SITES = {
    "base": (
        *((8, inputs, 768) for inputs in (576, 768, 1344, 1536)),
        (8, 576, 576),
        *((16, inputs, 576) for inputs in (384, 576, 960, 1152, 1344)),
        (16, 384, 384),
        (16, 768, 768),
    ),
    "upsampler": (
        *((8, inputs, 768) for inputs in (768, 1536)),
        *((16, inputs, 768) for inputs in (384, 768, 1152, 1536)),
        (16, 384, 384),
        *((64, inputs, 384) for inputs in (192, 384, 576, 768)),
    ),
}


def _draw(
    side: int, inputs: int, outputs: int, batch: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    x = torch.randn(batch, inputs, side, side, generator=generator).to(dtype)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
    return {"windows": windows(x), "weight": weight.to(dtype, memory_format=torch.channels_last)}


def _small(residual: bool, batch: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    """Few channels, and what the op can add besides."""
    drawn = _draw(3, 24, 16, batch, dtype, generator)
    drawn["bias"] = torch.randn(16, generator=generator).to(dtype)
    if residual:
        rows = torch.randn(batch, 3, 3, 16, generator=generator).to(dtype)
        drawn["residual"] = rows.permute(0, 3, 1, 2)
    return drawn


def _cases() -> Iterator[Case]:
    for model, sites in SITES.items():
        for index, (side, inputs, outputs) in enumerate(sites):
            chosen = tuple(
                batch
                for batch in BATCHES[model]
                if ways.fastest(batch, side * side, inputs, outputs) == ways.WINDOWS
            )
            if chosen:
                yield Case(
                    "window_convolution",
                    model,
                    f"{side}px {inputs} to {outputs}",
                    chosen,
                    partial(_draw, side, inputs, outputs),
                    partial(_small, index % 2 == 1),
                    devices=("cuda",),
                )


CASES = tuple(_cases())


def cost(call: Call) -> Cost:
    """Windows, weight, bias and residual in, the result out; ``18 C`` FLOPs for each value of it."""
    n, outputs, height, width = call.result_shape
    values = n * outputs * height * width
    written = values * call.windows.element_size()
    return Cost(held(*call.tensors) + written, 18 * values * call.windows.shape[4])


def describe(call: Call) -> str:
    """Sizes and what is added, in words."""
    added = [name for name in ("bias", "residual") if getattr(call, name) is not None]
    also = f" + {', '.join(added)}" if added else ""
    return f"{sizes(call.windows)} to {call.weight.shape[0]}{also}"
