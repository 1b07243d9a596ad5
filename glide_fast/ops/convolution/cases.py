"""GLIDE's calls of convolution: what they are given, what they cost at least, and how far a result may err."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch

from glide_fast.errors import BackendError
from glide_fast.ops.case import Case, Cost, held
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.window import window

FLOOR = (
    16 * 2.0**-24
)  # sums of hundreds of products in fp32: oneDNN orders them by the layout and the instruction set
BATCHES = {"base": (2, 8, 32), "upsampler": (1, 4)}


class Site(NamedTuple):
    """A convolution of one of the networks."""

    side: int  # of x, in pixels
    inputs: int
    outputs: int
    kernel: int = 3
    residual: bool = False
    bias: bool = True
    stride: int = 1
    padding: int | None = None
    where: str = ""

    @property
    def name(self) -> str:
        """Sizes and operands."""
        by = f" /{self.stride}" if self.stride > 1 else ""
        parts = [f"{self.side}px {self.inputs} to {self.outputs}, {self.kernel}x{self.kernel}{by}"]
        parts += (
            ["residual"] * self.residual + ["no bias"] * (not self.bias) + [self.where] * bool(self.where)
        )
        return ", ".join(parts)


def _half(side: int, inputs: int, outputs: int) -> tuple[Site, Site]:
    """The block's shortcut behind a concatenation that is never made: the stream's part, then the skip's part added to it."""
    first = Site(side, outputs, outputs, 1, where="shortcut's first part")
    return first, Site(side, inputs - outputs, outputs, 1, True, bias=False, where="shortcut's second part")


def _deferred(side: int, channels: int) -> Site:
    """As it runs on a GPU, where the next norm adds bias and residual."""
    return Site(side, channels, channels, bias=False, where="for a GPU")


def _places(side: int, channels: int) -> Site:
    """In place of a 3x3 convolution of the upsampled picture; see upsampled_convolution."""
    return Site(side, channels, 4 * channels, 2, padding=1, where="before upsampling")


# Of each level the block's second convolution, the first one behind a skip connection, attention's qkv and its way back.
SITES = {
    "base": (
        Site(64, 3, 192),
        Site(64, 192, 6),
        Site(64, 192, 192, residual=True),
        Site(64, 384, 192),
        *_half(64, 384, 192),
        Site(64, 192, 192, stride=2, where="without resblock_updown"),
        Site(32, 384, 384, residual=True),
        Site(32, 768, 384),
        Site(32, 384, 1152, 1),
        Site(32, 384, 384, 1, True),
        Site(16, 576, 576, residual=True),
        Site(16, 1152, 576),
        Site(16, 576, 1728, 1),
        Site(16, 576, 576, 1, True),
        Site(8, 768, 768, residual=True),
        Site(8, 1536, 768),
        Site(8, 768, 2304, 1),
        Site(8, 768, 768, 1, True),
        *(_places(side, channels) for side, channels in ((32, 384), (16, 576), (8, 768))),
        *(_deferred(side, channels) for side, channels in ((64, 192), (32, 384), (16, 576), (8, 768))),
    ),
    "upsampler": (
        Site(256, 6, 192),
        Site(256, 3, 192, residual=True, bias=False, where="beside the picture's share"),
        Site(256, 192, 6),
        Site(256, 192, 192, residual=True),
        Site(256, 384, 192),
        Site(128, 192, 192, residual=True),
        Site(128, 384, 192),
        Site(64, 384, 384, residual=True),
        Site(64, 768, 384),
        Site(32, 384, 384, residual=True),
        Site(32, 768, 384),
        Site(16, 768, 768, residual=True),
        Site(16, 1536, 768),
        Site(8, 768, 768, residual=True),
        Site(8, 1536, 768),
        *(_places(side, channels) for side, channels in ((128, 192), (64, 384), (32, 384))),
        *(_deferred(side, channels) for side, channels in ((256, 192), (64, 384))),
    ),
}


def _draw(site: Site, batch: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    def normal(*shape: int) -> torch.Tensor:
        value = torch.randn(shape, generator=generator).to(dtype)
        return value.to(memory_format=torch.channels_last) if len(shape) == 4 else value

    side, inputs, outputs, kernel = site[:4]
    weight = normal(outputs, inputs, kernel, kernel) * (inputs * kernel * kernel) ** -0.5
    after = window(weight, site.stride, site.padding).size(side, side)
    return {
        "x": normal(batch, inputs, side, side),
        "weight": weight,
        "bias": normal(outputs) if site.bias else None,
        "residual": normal(batch, outputs, *after) if site.residual else None,
        "stride": site.stride,
        "padding": site.padding,
    }


def _case(model: str, site: Site) -> Case:
    small = site._replace(side=min(site.side, 8))
    return Case("convolution", model, site.name, BATCHES[model], partial(_draw, site), partial(_draw, small))


CASES = tuple(_case(model, site) for model, sites in SITES.items() for site in sites)


def prepared(arguments: dict[str, Any], backend: str) -> dict[str, Any]:
    """The arguments with their weight as this backend holds it, packed once; the others would unpack it at every call."""
    x, weight = arguments["x"], arguments["weight"]
    if isinstance(weight, PackedWeight):
        if (backend, weight.tiles is None) in (("winograd", False), ("onednn", True)):
            return arguments
        weight = weight.dense()
        if weight.dim() == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
    if backend in ("winograd", "onednn") and x.numel():
        around = {"stride": arguments.get("stride", 1), "padding": arguments.get("padding")}
        with suppress(
            BackendError
        ):  # neither layout exists for it here; the backend says why when it declines the plain one
            weight = PackedWeight.pack(weight, input_shape=x.shape, tile=backend == "winograd", **around)
    return {**arguments, "weight": weight}


def cost(call: Call) -> Cost:
    """x, weight, bias and residual in, the result out; ``2 C kh kw`` FLOPs for each value of it."""
    n, outputs, height, width = call.result_shape
    values = n * outputs * height * width
    (down, right), _, _ = call.window
    return Cost(
        held(*call.tensors) + values * call.x.element_size(), 2 * values * call.x.shape[1] * down * right
    )


def describe(call: Call) -> str:
    """Sizes, kernel, stride and what is added, in words."""
    kernel, stride, _ = call.window
    by = f" /{stride[0]}" if max(stride) > 1 else ""
    added = [name for name in ("bias", "residual") if getattr(call, name) is not None]
    also = f" + {', '.join(added)}" if added else ""
    return f"{'x'.join(map(str, call.x.shape))} to {call.weight.shape[0]}, {kernel[0]}x{kernel[1]}{by}{also}"
