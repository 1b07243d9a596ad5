"""GLIDE's calls of output_convolution: their arguments, what they cost at least, and how far a result may err."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, held, sizes
from glide_fast.ops.convolution.cases import BATCHES
from glide_fast.ops.output_convolution.arguments import Call

FLOOR = 2.0**-20
"""A weight is the sum of two fp16 values."""
SITES = {"base": (64, 192, 6), "upsampler": (256, 192, 6)}
"""Side of the picture, inputs and outputs."""


def _draw(
    side: int, inputs: int, outputs: int, batch: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    # A model in bf16 hands over fp32: bf16 would round what the network predicts.
    x_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.nn.functional.silu(torch.randn(batch, inputs, side, side, generator=generator))
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
    return {
        "x": x.to(x_dtype, memory_format=torch.channels_last),
        "weight": weight.to(wide, memory_format=torch.channels_last),
        "bias": torch.randn(outputs, generator=generator).to(wide),
    }


CASES = tuple(
    Case(
        "output_convolution",
        model,
        f"{side}px {inputs} to {outputs}",
        BATCHES[model],
        partial(_draw, side, inputs, outputs),
        partial(_draw, 5, 24, outputs),
        devices=("cuda",),
    )
    for model, (side, inputs, outputs) in SITES.items()
)


def cost(call: Call) -> Cost:
    """x, weight and bias in, the result out; ``18 C`` FLOPs for each value of it."""
    n, inputs, height, width = call.x.shape
    values = n * call.weight.shape[0] * height * width
    return Cost(held(*call.tensors) + values * call.weight.element_size(), 18 * values * inputs)


def describe(call: Call) -> str:
    """Sizes in words."""
    return f"{sizes(call.x)} to {call.weight.shape[0]}"
