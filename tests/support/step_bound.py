"""guided_step in fp64, with a bound on the error of arithmetic in fp32, by which every backend and the reference are judged.

At the noisiest steps x0 is the difference of two numbers 20,000 times as large, so a result that is right to the last bit of
each operation still errs by 1e-3. How much is allowed therefore follows from the size of the terms: each operation adds half a
unit in the last place of its own result to what its operands erred (running error analysis, Wilkinson 1963; Higham 2002, 3.3).
A fused multiply-add leaves out one of these roundings, so the bound holds for it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from glide_fast.diffusion.noise import philox_normal
from glide_fast.ops.guided_step import Column, Step

HALF_UNIT = 2.0**-24
# What exponentials err, relative to the result: our own, and a device's power of two, whose exponent is x log2(e) rounded.
EXPONENTIAL = 8 * HALF_UNIT
EXPONENT = 2 * HALF_UNIT  # for each unit of the exponent
NORMAL = 1e-5  # the largest difference of a backend's normals from the definition
LEAST = 2.0**-126  # below it numbers in fp32 lose digits


@dataclass(frozen=True)
class Bounded:
    """An exact value, fp64, and the most that its value in fp32 may differ from it."""

    value: torch.Tensor
    error: torch.Tensor

    @classmethod
    def exact(cls, value: torch.Tensor | float) -> Bounded:
        wide = torch.as_tensor(value).double()
        return cls(wide, torch.zeros_like(wide))

    @classmethod
    def _rounded(
        cls, value: torch.Tensor, error: torch.Tensor, half_units: float | torch.Tensor = HALF_UNIT
    ) -> Bounded:
        return cls(value, error + half_units * (value.abs() + error) + LEAST)

    def __add__(self, other: Bounded) -> Bounded:
        return self._rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other: Bounded) -> Bounded:
        return self._rounded(self.value - other.value, self.error + other.error)

    def __mul__(self, other: Bounded) -> Bounded:
        error = self.value.abs() * other.error + (other.value.abs() + other.error) * self.error
        return self._rounded(self.value * other.value, error)

    def __truediv__(self, other: Bounded) -> Bounded:
        assert not other.error.any(), "only exact divisors are needed"
        return self._rounded(self.value / other.value, self.error / other.value.abs())

    def exp(self) -> Bounded:
        value = self.value.exp()
        return self._rounded(
            value, value * torch.expm1(self.error), EXPONENTIAL + EXPONENT * self.value.abs()
        )

    def clamp(self, least: float, most: float) -> Bounded:
        """The clamped value; its error is 0 where the value and all values within its error lie beyond a bound."""
        value, low, high = (
            v.clamp(least, most) for v in (self.value, self.value - self.error, self.value + self.error)
        )
        return Bounded(value, torch.maximum(high - value, value - low))


def bounds(arguments: dict[str, Any]) -> tuple[Bounded, Bounded, list[Bounded] | None]:
    """The next state, x0 and, with a history, the next history, for the op's ``arguments``."""
    x, table, step = arguments["x"], arguments["table"], arguments["step"]
    shape = (-1, *([1] * (x.dim() - 1)))
    rows, one, half = table[step].view(-1, Column.COUNT), Bounded.exact(1.0), Bounded.exact(0.5)

    def column(index: int) -> Bounded:
        return Bounded.exact(rows[:, index].view(shape))

    def optional(name: str) -> Bounded | None:
        return None if arguments.get(name) is None else Bounded.exact(arguments[name])

    outputs, scale = arguments["model_out"], arguments.get("guidance_scale")
    conditional = outputs if scale is None else outputs[: len(x)]
    eps, v = (Bounded.exact(part) for part in conditional.split(x.shape[1], dim=1))
    if scale is not None:
        without = Bounded.exact(outputs[len(x) :, : x.shape[1]])
        factor = Bounded.exact(scale.view(shape) if isinstance(scale, torch.Tensor) else scale)
        eps = without + factor * (eps - without)

    noisy = column(Column.SQRT_RECIP) * Bounded.exact(x)
    x0 = noisy - column(Column.SQRT_RECIPM1) * eps
    known, mask, score = optional("known"), optional("known_mask"), optional("score")
    if known is not None and mask is not None:
        x0 = x0 * (one - mask) + known * mask
    if arguments.get("clip", True):
        x0 = x0.clamp(-1, 1)
    if score is not None:
        x0 = x0 + column(Column.SCORE_TO_X0) * score

    frac = (v + one) * half
    log_variance = frac * column(Column.MAX_LOG) + (one - frac) * column(Column.MIN_LOG)
    out = column(Column.X) * Bounded.exact(x) + column(Column.X0) * x0
    if score is not None:
        out = out + column(Column.SCORE_TO_MEAN) * log_variance.exp() * score
    history = None
    if arguments.get("history") is not None:
        earlier = [Bounded.exact(prediction) for prediction in arguments["history"]]
        for k, term in enumerate(earlier):
            out = out + column(Column.HISTORY + k) * term
        remembered = (noisy - x0) / column(Column.SQRT_RECIPM1) if arguments.get("remember_eps") else x0
        history = [remembered, *earlier[:-1]]
    noise = optional("noise")
    if arguments.get("seeds") is not None:
        drawn = philox_normal(arguments["seeds"], step, tuple(x.shape[1:]), stream=arguments.get("stream", 0))
        noise = Bounded(drawn.double(), torch.full_like(drawn, NORMAL).double())
    if noise is not None:
        std = column(Column.NOISE) + column(Column.LEARNED_NOISE) * (half * log_variance).exp()
        out = out + std * noise
    return out, x0, history


def excess(got: Step, arguments: dict[str, Any]) -> float:
    """The largest error of a result, divided by the bound: the result is right up to 1."""
    out, x0, history = bounds(arguments)
    assert (got.history is None) == (history is None)
    pairs = [(got.x, out), (got.x0, x0)]
    if got.history is not None and history is not None:
        pairs += list(zip(got.history, history, strict=True))
    return max(_excess(ours, theirs) for ours, theirs in pairs)


def _excess(ours: torch.Tensor, theirs: Bounded) -> float:
    value, error = ours.double(), theirs.error.expand_as(ours)
    off = (value - theirs.value).abs()
    alike = (value == theirs.value) | (value.isnan() & theirs.value.isnan())
    share = torch.where(alike, 0.0, off / error)
    return float(share.max()) if not share.isnan().any() else float("inf")
