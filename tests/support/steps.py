"""Arguments of guided_step with the coefficient table of a rule, and a comparison with the reference."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.rules import RULES
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.ops.guided_step import HISTORY, Step
from glide_fast.ops.guided_step.reference import reference

op = importlib.import_module("glide_fast.ops.guided_step")
STEPS = 12
CASES: list[dict[str, Any]] = [
    {},
    {"rule": "plms", "known": True, "score": True, "channels_last": True, "row": STEPS - 1},
    {"rule": "dpm++2m", "noise": "tensor", "guided": False, "row_of_each": True},
    {"rule": "ddim", "noise": "none", "model_dtype": torch.bfloat16},
]
"""The call with the most options: changes to the defaults of :func:`arguments`."""


@functools.cache
def table(rule: str) -> torch.Tensor:
    """The rule's coefficients for the noisiest schedule that GLIDE uses: x0 is scaled by 2e4 at its first step."""
    betas = get_named_beta_schedule("squaredcos_cap_v2", 1000)
    diffusion = SpacedDiffusion(space_timesteps(1000, str(STEPS)), betas=betas)
    return torch.from_numpy(RULES[rule].build(diffusion, STEPS - 1)).float()


def arguments(
    shape: tuple[int, ...] = (2, 3, 8, 8),
    *,
    rule: str = "ddpm",
    row: int = 5,
    guided: bool = True,
    known: bool = False,
    score: bool = False,
    noise: str = "seeds",
    model_dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    row_of_each: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Keyword arguments of the op; ``noise`` is "seeds", "tensor" or "none"."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    count, _, *positions = shape
    x = normal(*shape)
    # At the noisiest rows only an eps close to x gives an x0 inside [-1, 1], where all of its digits are seen.
    out = torch.cat(
        [x + 3e-5 * normal(*shape) if row == STEPS - 1 else normal(*shape), 0.5 * normal(*shape)], 1
    )
    if guided:
        out = torch.cat([out, out + 1e-5 * normal(*out.shape)])
    out = out.to(model_dtype)
    if channels_last:
        out = out.movedim(1, -1).contiguous().movedim(-1, 1)
    result: dict[str, Any] = {
        "x": x,
        "model_out": out,
        "table": table(rule),
        "step": torch.tensor([(row + i) % STEPS for i in range(count)] if row_of_each else row),
        "guidance_scale": 3.0 if guided else None,
        "remember_eps": RULES[rule].remember_eps,
    }
    if noise == "seeds":
        result |= {"seeds": torch.randint(2**62, (count,), generator=generator) * 2 + 1, "stream": 3}
    elif noise == "tensor":
        result["noise"] = normal(*shape)
    if known:
        result["known"] = normal(*shape).clamp(-1, 1)
        result["known_mask"] = (normal(count, 1, *positions) > 0).float()
    if score:
        result["score"] = normal(*shape)
    if RULES[rule].multistep:
        result["history"] = normal(HISTORY, *shape)
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in result.items()}


def next_inputs(shape: tuple[int, ...], copies: int, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    """Poisoned memory for the network's next input."""
    count, channels, *positions = shape
    if channels_last:
        return torch.full((copies * count, *positions, channels), float("nan"), dtype=dtype).movedim(-1, 1)
    return torch.full((copies * count, *shape[1:]), float("nan"), dtype=dtype)


def poisoned(x: torch.Tensor, history: torch.Tensor | None = None) -> Step:
    """Memory for a result, full of NaN."""
    nan = torch.full_like
    return Step(nan(x, torch.nan), nan(x, torch.nan), None if history is None else nan(history, torch.nan))


def worst(got: Step, arguments: dict[str, Any]) -> float:
    """The largest difference from the reference, relative to the larger of 1 and the value."""
    want = reference(**arguments)
    largest = 0.0
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            error = (a.double() - b.double()).abs() / b.double().abs().clamp(min=1)
            largest = max(largest, float(error.max()) if not error.isnan().any() else float("inf"))
    return largest
