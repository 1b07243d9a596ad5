"""The ways to make the calls of guided_step without glide_fast."""

from __future__ import annotations

import functools

import numpy as np
import torch

from benchmarks.contestants import Unable
from benchmarks.contests import PLAIN, Arguments, Baseline
from glide_fast.bench.calls import WRITTEN, results
from glide_fast.diffusion.noise import philox_normal
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.rules import ddpm
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.ops.guided_step.reference import reference

STEPS = {"squaredcos_cap_v2": "100", "linear": "fast27"}


@functools.cache
def process(schedule: str) -> SpacedDiffusion:
    """The process of one of the released models, by its noise schedule."""
    betas = get_named_beta_schedule(schedule, 1000)
    return SpacedDiffusion(space_timesteps(1000, STEPS[schedule]), betas=betas)


def schedule_of(table: torch.Tensor) -> str:
    """The noise schedule whose DDPM steps have these coefficients; Unable if there is none."""
    for schedule in STEPS:
        known = torch.from_numpy(ddpm(process(schedule))).to(table.dtype)
        if known.shape == table.shape and torch.equal(known, table.cpu()):
            return schedule
    raise Unable("the released update is DDPM")


def official_step(
    diffusion: SpacedDiffusion,
    row: int,
    x: torch.Tensor,
    model_out: torch.Tensor,
    noise: torch.Tensor,
    guidance_scale: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A step as in the official loop: each use of a coefficient reads it from an fp64 array on the host, and is one launch.

    With guidance the official loop keeps the state doubled like the network's batch: ``x`` and ``noise`` are ``[2 N, C, H, W]``.
    """
    t = torch.full((len(x),), row, device=x.device)

    def at(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(x.device)[t].float().view(-1, 1, 1, 1).expand(x.shape)

    if guidance_scale is not None:
        eps, rest = model_out[:, :3], model_out[:, 3:]
        conditional, unconditional = torch.split(eps, len(eps) // 2)
        half = unconditional + guidance_scale * (conditional - unconditional)
        model_out = torch.cat([torch.cat([half, half]), rest], dim=1)
    eps, v = torch.split(model_out, 3, dim=1)
    low, high = at(diffusion.posterior_log_variance_clipped), at(np.log(diffusion.betas))
    frac = (v + 1) / 2
    log_variance = frac * high + (1 - frac) * low
    x0 = at(diffusion.sqrt_recip_alphas_cumprod) * x - at(diffusion.sqrt_recipm1_alphas_cumprod) * eps
    x0 = x0.clamp(-1, 1)
    mean = at(diffusion.posterior_mean_coef1) * x0 + at(diffusion.posterior_mean_coef2) * x
    nonzero = (t != 0).float().view(-1, 1, 1, 1)
    return mean + nonzero * torch.exp(0.5 * log_variance) * noise, x0


def released(a: Arguments) -> Arguments:
    """The arguments as the released loop holds them: with guidance, state and noise are doubled like the network's batch."""
    if any(a.get(name) is not None for name in ("known", "history", "score")):
        raise Unable("the released update has no such part")
    diffusion = process(schedule_of(a["table"]))
    noise = a.get("noise")
    if noise is None:
        noise = philox_normal(a["seeds"], a["step"], a["x"].shape[1:], stream=a.get("stream", 0))
    scale = a.get("guidance_scale")
    copies = 1 if scale is None else 2
    return a | {
        "x": a["x"].repeat(copies, 1, 1, 1),
        "noise": noise.repeat(copies, 1, 1, 1),
        "guidance_scale": None if scale is None else float(scale),
        "row": int(a["step"][0]),
        "process": diffusion,
        "count": len(a["x"]),
    }


def official(a: Arguments) -> list[torch.Tensor]:
    if a.get("seeds") is not None:
        # The released loop draws noise, so drawing is timed; but the noise of the seeds is added, so that results compare.
        torch.randn_like(a["x"])
    arguments = (a[name] for name in ("process", "row", "x", "model_out", "noise", "guidance_scale"))
    return [result[: a["count"]] for result in official_step(*arguments)]


def plain(a: Arguments) -> list[torch.Tensor]:
    return results(reference(**{name: value for name, value in a.items() if name not in WRITTEN}))


BASELINES = {PLAIN: Baseline(plain), "official fp32 chain": Baseline(official, released)}
