"""GLIDE's calls of upsampled_convolution: arguments, least cost in bytes and FLOPs, and how far a result may err."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, held
from glide_fast.ops.convolution import cases as convolution
from glide_fast.ops.upsampled_convolution.arguments import Call
from glide_fast.ops.upsampled_convolution.places import PLACES, place_weights

FLOOR = convolution.FLOOR
# Side of the small picture and channels, of the residual blocks that enlarge.
SITES = {
    "base": ((8, 768), (16, 576), (32, 384)),
    "upsampler": ((8, 768), (16, 768), (32, 384), (64, 384), (128, 192)),
}


def _draw(
    side: int, channels: int, batch: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (3 * channels**0.5)
    x = torch.randn(batch, channels, side, side, generator=generator)
    weights = place_weights(weight.to(dtype)).to(memory_format=torch.channels_last)
    bias = torch.randn(channels, generator=generator).to(dtype).repeat(PLACES)
    return {"x": x.to(dtype, memory_format=torch.channels_last), "weights": weights, "bias": bias}


CASES = tuple(
    Case(
        "upsampled_convolution",
        model,
        f"{side}px {channels}",
        convolution.BATCHES[model],
        partial(_draw, side, channels),
        partial(_draw, 5, channels),
    )
    for model, sites in SITES.items()
    for side, channels in sites
)


def prepared(arguments: dict[str, Any], backend: str) -> dict[str, Any]:
    """The arguments, with ``weights`` packed as the convolution's ``backend`` wants them."""
    x, weights = arguments["x"], arguments["weights"]
    inner = convolution.prepared({"x": x, "weight": weights, "padding": 1}, backend)
    return {**arguments, "weights": inner["weight"]}


def cost(call: Call) -> Cost:
    """x, weights and bias are read; four pixels are written for each of x. A value takes 4 products for each channel of x."""
    n, channels, height, width = call.x.shape
    values = n * call.weights.shape[0] * height * width
    return Cost(held(*call.tensors) + values * call.x.element_size(), 2 * values * channels * 4)


def describe(call: Call) -> str:
    """Sizes in words."""
    return f"{'x'.join(map(str, call.x.shape))} to {call.weights.shape[0] // PLACES}, upsampled"
