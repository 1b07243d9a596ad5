"""guided_step: DDPM with the learned variance, guided at 64 px (base) and not at 256 px (upsampler)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from benchmarks.case import PLAIN, Case
from glide_fast.diffusion.noise import philox_normal
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.rules import ddpm
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.ops import guided_step
from glide_fast.ops.guided_step.reference import reference

ROW = 50
SCALE = 3.0


@functools.cache
def process() -> SpacedDiffusion:
    """GLIDE's hundred steps."""
    return SpacedDiffusion(
        space_timesteps(1000, "100"), betas=get_named_beta_schedule("squaredcos_cap_v2", 1000)
    )


def official_step(
    x: torch.Tensor, model_out: torch.Tensor, noise: torch.Tensor, guidance_scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A step as the official loop takes it: coefficients come from the host's fp64 arrays at every use, one launch each.

    With guidance its state is as doubled as the network's batch, ``x`` and ``noise`` ``[2 N, C, H, W]``, to the end.
    """
    diffusion = process()
    t = torch.full((len(x),), ROW, device=x.device)

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


def case(model: str, n: int, side: int, seeded: bool, device: str, compile_too: bool) -> Case:
    """``n`` images; the noise is given, or ``seeded``: drawn from seeds in the step."""
    generator = torch.Generator().manual_seed(side)
    shape = (n, 3, side, side)
    guidance = SCALE if model == "base" else None
    copies = 1 if guidance is None else 2
    x = torch.randn(shape, generator=generator).to(device)
    model_out = torch.randn(copies * n, 6, side, side, generator=generator).to(device)
    table = torch.from_numpy(ddpm(process())).float().to(device)
    # A vector: indexing with a scalar tensor would make the reference wait for the device.
    step = torch.full((n,), ROW, device=device)
    seeds = torch.arange(n, device=device) + 17
    noise = philox_normal(seeds, step, shape[1:], stream=1)

    def of(run: object) -> Iterable[torch.Tensor]:
        drawn = {"seeds": seeds, "stream": 1} if seeded else {"noise": noise}
        result = run(x, model_out, table, step, guidance_scale=guidance, **drawn)  # type: ignore[operator]
        return result.x, result.x0

    def truth() -> Iterable[torch.Tensor]:
        wide = x.double(), model_out.double(), table.double()
        result = reference(*wide, step, noise.double(), guidance_scale=guidance)
        return result.x, result.x0

    def plain() -> Iterable[torch.Tensor]:
        return of(reference)

    made = Case(
        op="guided_step",
        model=model,
        shape=f"{n}x3x{side}x{side}{', guided' if guidance else ''}, noise {'from seeds' if seeded else 'given'}",
        dtype=torch.float32,
        device=device,
        truth=truth,
        baselines={PLAIN: plain},
        moved_bytes=4 * x.numel() * ((5 if guidance is None else 6) + (0 if seeded else 1)),
        flops=(40 + 60 * seeded) * x.numel(),
        floor=1e-5,
    )

    whole_x, whole_noise = x.repeat(copies, 1, 1, 1), noise.repeat(copies, 1, 1, 1)

    def official() -> Iterable[torch.Tensor]:
        if seeded:  # it draws noise, too; that of the seeds takes its place, since results are compared
            torch.randn_like(whole_x)
        return tuple(result[:n] for result in official_step(whole_x, model_out, whole_noise, guidance))

    made.baselines["official fp32 chain"] = official
    made.add_backends(lambda: of(guided_step))
    if compile_too:
        made.add_compiled("torch.compile of plain torch", plain)
    return made


def cases(device: str, compile_too: bool, quick: bool) -> Iterator[Case]:
    """All sizes, or with ``quick`` one of each model."""
    for model, batches, side in (("base", (2, 8, 32), 64), ("upsampler", (1, 4), 256)):
        for n in batches[:1] if quick else batches:
            for seeded in (False, True):
                yield case(model, n, side, seeded, device, compile_too)
