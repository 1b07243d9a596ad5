"""Noise schedules: the variance beta_t that step t adds (Ho et al. 2020; Nichol & Dhariwal 2021, eq. 17 for the cosine)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from glide_fast.errors import invalid

Array = NDArray[np.float64]


def _warmup(start: float, end: float, steps: int, fraction: float) -> Array:
    betas = np.full(steps, end, dtype=np.float64)
    ramp = int(steps * fraction)
    betas[:ramp] = np.linspace(start, end, ramp, dtype=np.float64)
    return betas


_BY_RANGE: dict[str, Callable[[float, float, int], Array]] = {
    "quad": lambda start, end, steps: np.linspace(start**0.5, end**0.5, steps, dtype=np.float64) ** 2,
    "linear": lambda start, end, steps: np.linspace(start, end, steps, dtype=np.float64),
    "warmup10": lambda start, end, steps: _warmup(start, end, steps, 0.1),
    "warmup50": lambda start, end, steps: _warmup(start, end, steps, 0.5),
    "const": lambda start, end, steps: np.full(steps, end, dtype=np.float64),
    "jsd": lambda start, end, steps: 1.0 / np.linspace(steps, 1, steps, dtype=np.float64),
}


def get_beta_schedule(
    beta_schedule: str, *, beta_start: float, beta_end: float, num_diffusion_timesteps: int
) -> Array:
    """Betas ``[num_diffusion_timesteps]`` from an explicit range; kept for the official module's users."""
    if beta_schedule not in _BY_RANGE:
        raise invalid("beta_schedule", beta_schedule, "one of " + ", ".join(_BY_RANGE))
    return _BY_RANGE[beta_schedule](beta_start, beta_end, num_diffusion_timesteps)


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> Array:
    """Betas whose running product of ``1 - beta`` follows ``alpha_bar(t)``, t in [0, 1], each at most ``max_beta``."""
    knots = [alpha_bar(i / num_diffusion_timesteps) for i in range(num_diffusion_timesteps + 1)]
    return np.array([min(1 - late / early, max_beta) for early, late in itertools.pairwise(knots)])


def get_named_beta_schedule(schedule_name: str, num_diffusion_timesteps: int) -> Array:
    """Betas ``[num_diffusion_timesteps]`` fp64 of ``linear`` or ``squaredcos_cap_v2``."""
    if not isinstance(num_diffusion_timesteps, int) or num_diffusion_timesteps < 1:
        raise invalid("num_diffusion_timesteps", num_diffusion_timesteps, "an integer of at least 1")
    if schedule_name == "linear":
        # Ho et al.'s range is for 1000 steps; other lengths keep the total noise.
        scale = 1000 / num_diffusion_timesteps
        return get_beta_schedule(
            "linear",
            beta_start=scale * 0.0001,
            beta_end=scale * 0.02,
            num_diffusion_timesteps=num_diffusion_timesteps,
        )
    if schedule_name == "squaredcos_cap_v2":
        return betas_for_alpha_bar(
            num_diffusion_timesteps, lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        )
    raise invalid("schedule_name", schedule_name, "'linear' or 'squaredcos_cap_v2'")
