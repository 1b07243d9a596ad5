"""The calls of guided_step that sampling loops make: fp32 states, the network's fp32 output and its next input channels-last.

A loop writes the next state over the old one; here the next state has separate memory, so that a call can be repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.rules import RULES, Table, draws_noise
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.ops.case import Case, Cost, fused, held, sizes
from glide_fast.ops.guided_step.arguments import HISTORY, Call, Step

FLOOR = 1e-5
"""Backends differ in the noise and the exponential, which processors do not round alike."""
FLOPS, FLOPS_OF_NOISE = 40, 60
"""FLOPs for each value of the state, and further ones where its noise is drawn from a seed."""

CHANNELS = 3
GUIDANCE = 3.0


@functools.cache
def _coefficients(model: str, rule: str) -> Table:
    """The table of a sampler for the released model's process, ``[steps, Column.COUNT]``."""
    schedule, steps = ("squaredcos_cap_v2", "100") if model == "base" else ("linear", "fast27")
    process = SpacedDiffusion(space_timesteps(1000, steps), betas=get_named_beta_schedule(schedule, 1000))
    return RULES[rule].build(process, process.num_timesteps - 1)


@dataclass(frozen=True)
class Update:
    """One sampler's step of one model.

    Attributes:
        rule: the sampler, of :data:`glide_fast.diffusion.rules.RULES`.
        guided: whether the network's batch is doubled for classifier-free guidance.
        known: whether a part of the picture is known (inpainting).
        score: whether a gradient moves the prediction (guidance by CLIP).
    """

    model: str
    rule: str
    guided: bool = False
    known: bool = False
    score: bool = False

    @property
    def side(self) -> int:
        """Height and width of a state."""
        return 64 if self.model == "base" else 256

    @property
    def name(self) -> str:
        """Such as ``64px ddpm guided known``."""
        parts = {"guided": self.guided, "known": self.known, "score": self.score}
        return " ".join([f"{self.side}px {self.rule}", *(part for part, present in parts.items() if present)])

    def draw(self, side: int, batch: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
        """The arguments of a step in the middle of the loop, for pictures of this side."""
        table, rule = _coefficients(self.model, self.rule), RULES[self.rule]
        copies = 2 if self.guided else 1

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator)

        x = normal(batch, CHANNELS, side, side)
        predicted = normal(copies * batch, side, side, 2 * CHANNELS)
        inputs = torch.zeros(copies * batch, side, side, CHANNELS, dtype=dtype)
        history = normal(HISTORY, *x.shape) if rule.multistep else None
        return {
            "x": x,
            "model_out": predicted.permute(0, 3, 1, 2),
            "table": torch.from_numpy(table).float(),
            # One step for each image, since torch would read a single number back to the host.
            "step": torch.full((batch,), len(table) // 2),
            "seeds": torch.arange(batch) + 17 if draws_noise(table) else None,
            "stream": 1,
            "guidance_scale": torch.full((1,), GUIDANCE) if self.guided else None,
            "known": normal(*x.shape).clamp(-1, 1) if self.known else None,
            "known_mask": (normal(batch, 1, *x.shape[2:]) > 0).float() if self.known else None,
            "score": normal(*x.shape) if self.score else None,
            "history": history,
            "remember_eps": rule.remember_eps,
            "inputs": inputs.permute(0, 3, 1, 2),
            "out": Step(torch.zeros_like(x), torch.zeros_like(x), _like(history)),
        }


def _like(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else torch.zeros_like(tensor)


_UPDATES = (
    *(Update("base", rule, guided=True) for rule in RULES),
    Update("base", "ddpm"),
    Update("base", "ddpm", guided=True, known=True),
    Update("base", "ddpm", score=True),
    Update("upsampler", "ddpm"),
    Update("upsampler", "ddim"),
    Update("upsampler", "ddpm", known=True),
)


def _cases() -> Iterator[Case]:
    for update in _UPDATES:
        batches = (1, 4, 16) if update.model == "base" else (1, 4)
        draw, small = (functools.partial(update.draw, side) for side in (update.side, 8))
        yield Case("guided_step", update.model, update.name, batches, draw, small)


CASES = tuple(_cases())


def cost(call: Call) -> Cost:
    """The state, the network's output and the history are read; state, x0, history and the network's next input are written."""
    x = call.x
    moved = held(x, call.model_out, call.noise, call.known, call.known_mask, call.score)
    moved += 2 * held(x) + 2 * held(call.history) + held(call.inputs)
    return Cost(moved, (FLOPS + (0 if call.seeds is None else FLOPS_OF_NOISE)) * x.numel())


def describe(call: Call) -> str:
    """Such as ``1x3x64x64 + guidance, noise``."""
    return sizes(call.x) + fused(
        guidance=call.guidance_scale,
        noise=call.seeds,
        known=call.known,
        score=call.score,
        history=call.history,
    )
