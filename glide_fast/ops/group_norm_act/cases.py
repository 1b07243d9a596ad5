"""The calls of group_norm_act that GLIDE's models make, as the runtime launches them.

On a CPU convolutions add their bias and the residual themselves, and a norm reads a finished sum. On a GPU the norm adds them
(``x_bias``, ``residual``) and, where the sum is read again, keeps it (``keep_sum``): those cases have "bias" or "residual" in
their names, and "kept". There it also writes windows where the 3x3 convolution behind it is to be a matrix product, which
depends on the batch (:mod:`glide_fast.ops.convolution.ways`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from glide_fast.ops.case import Case, Cost, fused, held, sizes
from glide_fast.ops.convolution import ways
from glide_fast.ops.group_norm_act.arguments import TAPS, Call

FLOOR = 2.0**-17
"""In fp32 the sum that is normalised is rounded, by more of the result the larger its mean is beside its deviation."""
GROUPS = 32
FLOPS = 20
"""Of each value: two for the mean, three for the variance, the rest for affine, FiLM and SiLU."""


@dataclass(frozen=True)
class Norm:
    """One norm of a model, of ``channels`` of the stream and ``second`` of a skip connection.

    Attributes:
        side: height and width of the picture.
        film: whether it takes scale and shift, of fp32, as slices of one table for all blocks.
        silu: whether SiLU follows.
        sums: what it adds to the stream on a GPU, in two letters at most: b for the bias, r for the residual.
        keeps: whether the sum is read again.
        resample: what becomes of the result on a GPU.
        resample_on_cpu: the same on a CPU, where a convolution behind an upsampling reads the small picture.
        wide: whether the result is fp32: the network's last norm.
        outputs: channels that the 3x3 convolution behind it makes; 0 where there is none, and for the last.
        as_windows: whether the result is written as windows on a GPU; None where the batch decides.
    """

    side: int
    channels: int
    second: int = 0
    film: bool = False
    silu: bool = True
    sums: str = ""
    keeps: bool = True
    resample: str | None = None
    resample_on_cpu: bool = True
    wide: bool = False
    outputs: int = 0
    as_windows: bool | None = None

    def name(self, on_gpu: bool) -> str:
        """What distinguishes its call, such as ``64px 192+192 SiLU bias residual kept``."""
        adds = self.sums if on_gpu else ""
        parts = {
            "FiLM": self.film,
            "SiLU": self.silu,
            "bias": "b" in adds,
            "residual": "r" in adds,
            "kept": bool(adds) and self.keeps,
            str(self.resampling(on_gpu)): self.resampling(on_gpu) is not None,
            "to fp32": self.wide,
        }
        width = f"{self.channels}+{self.second}" if self.second else f"{self.channels}"
        return " ".join([f"{self.side}px {width}", *(part for part, present in parts.items() if present)])

    def resampling(self, on_gpu: bool) -> str | None:
        """How the result is resampled."""
        return self.resample if on_gpu or self.resample_on_cpu else None

    def windows(self, batch: int) -> bool:
        """Whether the result is written as windows on a GPU."""
        if self.as_windows is not None or not self.outputs:
            return bool(self.as_windows)
        positions = self.side**2
        if self.resample is not None:
            positions = positions * 4 if self.resample == "nearest_x2" else positions // 4
        return ways.fastest(batch, positions, self.channels + self.second, self.outputs) == ways.WINDOWS

    def draw(
        self, on_gpu: bool, batch: int, dtype: torch.dtype, generator: torch.Generator
    ) -> dict[str, Any]:
        """The arguments of a call."""

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator)

        def pixels(channels: int) -> torch.Tensor:
            """Channels-last; the mean is not zero, as a residual stream's is not."""
            values = normal(batch, self.side, self.side, channels) * 0.5 + 2.3
            return values.to(dtype).permute(0, 3, 1, 2)

        # On a GPU the last convolution reads fp16.
        own = (torch.float64, torch.float16) if on_gpu else (torch.float64,)
        width, adds = self.channels + self.second, self.sums if on_gpu else ""
        scale, shift = None, None
        if self.film:
            # A row of the table holds those of every block.
            scale, shift = normal(batch, 4 * width)[:, width : 3 * width].chunk(2, dim=1)
        return {
            "x": pixels(self.channels),
            "weight": normal(width),
            "bias": normal(width),
            "groups": GROUPS,
            "scale": scale,
            "shift": shift,
            "silu": self.silu,
            "x2": pixels(self.second) if self.second else None,
            "residual": pixels(self.channels) if "r" in adds else None,
            "x_bias": normal(self.channels).to(dtype) if "b" in adds else None,
            "keep_sum": bool(adds) and self.keeps,
            "resample": self.resampling(on_gpu),
            "out_dtype": torch.float32 if self.wide and dtype not in own else None,
            "windows": on_gpu and self.windows(batch),
        }


def _first(side: int, channels: int, sums: str, outputs: int) -> Norm:
    """The first norm of a residual block that makes ``outputs`` channels."""
    return Norm(side, channels, sums=sums, outputs=outputs)


def _after_skip(side: int, channels: int, second: int, sums: str, outputs: int) -> Norm:
    """The first norm of a residual block that reads a skip connection, and makes ``outputs`` channels."""
    return Norm(side, channels, second, sums=sums, outputs=outputs)


def _second(side: int, channels: int) -> Norm:
    """The second norm of a residual block."""
    return Norm(side, channels, film=True, sums="b", keeps=False, outputs=channels)


def _attention(side: int, channels: int) -> Norm:
    """The norm of an attention block."""
    return Norm(side, channels, silu=False, sums="br")


def _down(side: int, channels: int, sums: str) -> Norm:
    """The first norm of a residual block that halves the picture."""
    return Norm(side, channels, sums=sums, resample="mean_2x2", outputs=channels)


def _up(side: int, channels: int, sums: str) -> Norm:
    """The first norm of a residual block that doubles the picture."""
    return Norm(side, channels, sums=sums, resample="nearest_x2", resample_on_cpu=False, outputs=channels)


def _last(side: int, channels: int) -> Norm:
    """The norm of the output layer."""
    return Norm(side, channels, sums="br", keeps=False, wide=True)


_BASE = (
    *(_first(64, 192, "b", 192), _first(64, 192, "br", 192), _second(64, 192), _down(64, 192, "br")),
    *(_first(32, 192, "br", 384), _second(32, 192)),
    *(_first(32, 384, "r", 384), _second(32, 384), _attention(32, 384), _down(32, 384, "r")),
    *(_first(16, 384, "br", 576), _second(16, 384)),
    *(_first(16, 576, "r", 576), _second(16, 576), _attention(16, 576), _down(16, 576, "r")),
    *(_first(8, 576, "br", 768), _second(8, 576)),
    *(_first(8, 768, "r", 768), _second(8, 768), _attention(8, 768)),
    *(
        _after_skip(8, 768, 768, "br", 768),
        _after_skip(8, 768, 768, "r", 768),
        _after_skip(8, 768, 576, "r", 768),
    ),
    *(_up(8, 768, "r"), _second(16, 768), _after_skip(16, 768, 576, "br", 576)),
    *(_after_skip(16, 576, 576, "r", 576), _after_skip(16, 576, 384, "r", 576)),
    *(_up(16, 576, "r"), _second(32, 576), _after_skip(32, 576, 384, "br", 384)),
    *(_after_skip(32, 384, 384, "r", 384), _after_skip(32, 384, 192, "r", 384)),
    *(_up(32, 384, "r"), _second(64, 384), _after_skip(64, 384, 192, "br", 192)),
    *(_after_skip(64, 192, 192, "br", 192), _last(64, 192)),
)
_UPSAMPLER = (
    *(_first(256, 192, "r", 192), _first(256, 192, "br", 192), _second(256, 192), _down(256, 192, "br")),
    *(_first(128, 192, "br", 192), _second(128, 192), _down(128, 192, "br")),
    *(_first(64, 192, "br", 384), _second(64, 192)),
    *(_first(64, 384, "br", 384), _second(64, 384), _down(64, 384, "br")),
    *(
        _first(32, 384, "br", 384),
        _first(32, 384, "r", 384),
        _second(32, 384),
        _attention(32, 384),
        _down(32, 384, "r"),
    ),
    *(_first(16, 384, "br", 768), _second(16, 384)),
    *(_first(16, 768, "r", 768), _second(16, 768), _attention(16, 768), _down(16, 768, "r")),
    *(_first(8, 768, "br", 768), _first(8, 768, "r", 768), _second(8, 768), _attention(8, 768)),
    *(_after_skip(8, 768, 768, "br", 768), _after_skip(8, 768, 768, "r", 768)),
    *(_up(8, 768, "r"), _after_skip(16, 768, 768, "br", 768)),
    *(_after_skip(16, 768, 768, "r", 768), _after_skip(16, 768, 384, "r", 768)),
    *(
        _up(16, 768, "r"),
        _second(32, 768),
        _after_skip(32, 768, 384, "br", 384),
        _after_skip(32, 384, 384, "r", 384),
    ),
    *(_up(32, 384, "r"), _after_skip(64, 384, 384, "br", 384), _after_skip(64, 384, 192, "br", 384)),
    *(
        _up(64, 384, "br"),
        _second(128, 384),
        _after_skip(128, 384, 192, "br", 192),
        _after_skip(128, 192, 192, "br", 192),
    ),
    *(_up(128, 192, "br"), _after_skip(256, 192, 192, "br", 192), _last(256, 192)),
)


def _small(norm: Norm) -> Norm:
    """Of a smaller picture, for tests. Windows are left to one sort of norm, the one with most options, and to few channels."""
    windows = norm.side == 8 and bool(norm.second) and norm.sums == "br"
    if windows:
        return replace(norm, side=4, channels=128, second=64, as_windows=True)
    return replace(norm, side=min(norm.side, 8), as_windows=False)


def _cases() -> Iterator[Case]:
    for model, batches, norms in (("base", (2, 8, 32), _BASE), ("upsampler", (1, 4), _UPSAMPLER)):
        drawn: dict[str, dict[str, Norm]] = {}
        for device in ("cpu", "cuda"):
            for norm in norms:
                drawn.setdefault(norm.name(device == "cuda"), {})[device] = norm
        for name, by_device in drawn.items():
            *_, (device, norm) = by_device.items()
            draw, small = (partial(one.draw, device == "cuda") for one in (norm, _small(norm)))
            yield Case("group_norm_act", model, name, batches, draw, small, devices=tuple(by_device))


CASES = tuple(_cases())


def cost(call: Call) -> Cost:
    """x, skip, residual and parameters in; y and, where it is kept, the sum out."""
    values = call.x.numel() + (0 if call.x2 is None else call.x2.numel())
    written = values
    if call.resample is not None:
        written = values * 4 if call.resample == "nearest_x2" else values // 4
    if call.windows:
        written *= TAPS
    moved = held(*call.tensors) + written * (call.out_dtype or call.x.dtype).itemsize
    if call.keep_sum and call.adds:
        moved += held(call.x)
    return Cost(moved, FLOPS * values)


def describe(call: Call) -> str:
    """Such as ``2x192x64x64 with 2x192x64x64 + bias, residual, kept sum, SiLU, mean_2x2``."""
    second = "" if call.x2 is None else f" with {sizes(call.x2)}"
    besides = fused(
        bias=call.x_bias,
        residual=call.residual,
        kept_sum=call.keep_sum and call.adds,
        FiLM=call.scale,
        SiLU=call.silu,
        windows=call.windows,
    )
    return sizes(call.x) + second + besides + (f", {call.resample}" if call.resample else "")
