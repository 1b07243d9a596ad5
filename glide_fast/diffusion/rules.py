"""Samplers as coefficient tables: each rule is a linear update of the state, x0, earlier predictions and fresh noise.

A table is ``[steps, Column.COUNT]`` fp64, row i for respaced step i (row 0 is the last step taken); the arithmetic that reads
it is :mod:`glide_fast.ops.guided_step`. Notation: abar_t is the product of ``1 - beta`` up to t, abar_s that of the step
before (1 before the first), alpha = sqrt(abar), sigma = sqrt(1 - abar), alpha_s and sigma_s those of abar_s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glide_fast.diffusion.process import Process
from glide_fast.errors import invalid
from glide_fast.ops.guided_step import Column

Table = NDArray[np.float64]


def _common(diffusion: Process) -> Table:
    """What every rule shares: x0 from eps, and the learned variance's range."""
    table = np.zeros((diffusion.num_timesteps, Column.COUNT))
    table[:, Column.SQRT_RECIP] = diffusion.sqrt_recip_alphas_cumprod
    table[:, Column.SQRT_RECIPM1] = diffusion.sqrt_recipm1_alphas_cumprod
    table[:, Column.MIN_LOG] = diffusion.posterior_log_variance_clipped
    table[:, Column.MAX_LOG] = np.log(diffusion.betas)
    return table


def _score_moves_x0(table: Table, diffusion: Process) -> None:
    """eps - sigma score (Song et al. 2020, eq. 14 as guidance uses it) written as a change of x0."""
    table[:, Column.SCORE_TO_X0] = (
        diffusion.sqrt_recipm1_alphas_cumprod * diffusion.sqrt_one_minus_alphas_cumprod
    )


def ddpm(diffusion: Process) -> Table:
    """Ancestral sampling with the learned variance (Ho et al. 2020, algorithm 2 and eq. 7); no noise after the last step."""
    table = _common(diffusion)
    table[:, Column.X] = diffusion.posterior_mean_coef2
    table[:, Column.X0] = diffusion.posterior_mean_coef1
    table[1:, Column.LEARNED_NOISE] = 1.0
    table[:, Column.SCORE_TO_MEAN] = 1.0
    return table


def ddim(diffusion: Process, eta: float = 0.0) -> Table:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16); ``eta`` 0 is deterministic, 1 is like DDPM."""
    if not 0.0 <= eta <= 1.0:
        raise invalid("eta", eta, "a number from 0 to 1")
    table = _common(diffusion)
    abar, abar_s = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev
    std = eta * np.sqrt((1 - abar_s) / (1 - abar)) * np.sqrt(1 - abar / abar_s)
    # eps re-derived from x0 is (x - alpha x0) / sigma; its weight is what the noise leaves of sigma_s.
    table[:, Column.X] = np.sqrt(1 - abar_s - std**2) / np.sqrt(1 - abar)
    table[:, Column.X0] = np.sqrt(abar_s) - np.sqrt(abar) * table[:, Column.X]
    table[1:, Column.NOISE] = std[1:]
    _score_moves_x0(table, diffusion)
    return table


# Adams-Bashforth weights of the present eps and the three before it, by how many of those there are.
_ADAMS_BASHFORTH = np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


def _steps_before(diffusion: Process, first: int | None) -> NDArray[np.int64]:
    """``[steps]``: how many steps were taken before each row, where row ``first`` is taken first (None: the noisiest)."""
    last_row = diffusion.num_timesteps - 1
    if first is None:
        first = last_row
    if not 0 <= first <= last_row:
        raise invalid("first", first, f"a row from 0 to {last_row}")
    return np.clip(first - np.arange(diffusion.num_timesteps), 0, None)


def plms(diffusion: Process, first: int | None = None) -> Table:
    """Pseudo linear multistep: Adams-Bashforth on eps, DDIM's step with the result (Liu et al. 2022).

    One network call a step: the first three steps use the formulas of lower order instead of Runge-Kutta. The history holds
    eps. ``first`` is the row that is taken first, where there is no history yet; None for the noisiest.
    """
    table = _common(diffusion)
    weights = _ADAMS_BASHFORTH[np.minimum(_steps_before(diffusion, first), 3)]
    alpha, alpha_s = np.sqrt(diffusion.alphas_cumprod), np.sqrt(diffusion.alphas_cumprod_prev)
    sigma, sigma_s = np.sqrt(1 - diffusion.alphas_cumprod), np.sqrt(1 - diffusion.alphas_cumprod_prev)
    # x' = alpha_s / alpha x + (sigma_s - alpha_s sigma / alpha) eps', where eps = (x - alpha x0) / sigma is part of eps'.
    # Collected so that the two large terms of the noisiest step, alpha_s / alpha, cancel by hand.
    table[:, Column.X] = alpha_s / alpha * (1 - weights[:, 0]) + sigma_s / sigma * weights[:, 0]
    table[:, Column.X0] = (alpha_s - alpha * sigma_s / sigma) * weights[:, 0]
    history = slice(Column.HISTORY, Column.HISTORY + 3)
    table[:, history] = (sigma_s - alpha_s * sigma / alpha)[:, None] * weights[:, 1:]
    _score_moves_x0(table, diffusion)
    return table


def dpm_solver_pp_2m(diffusion: Process, first: int | None = None) -> Table:
    """DPM-Solver++(2M), the second-order multistep solver in x0 (Lu et al. 2022b, algorithm 2).

    The first step is of first order, and so is the last: half the log signal-to-noise ratio, lambda, is infinite at its end and
    the exponential integrator returns x0 itself. The history holds x0. ``first`` as for :func:`plms`.
    """
    table = _common(diffusion)
    before = _steps_before(diffusion, first)
    alpha, alpha_s = np.sqrt(diffusion.alphas_cumprod), np.sqrt(diffusion.alphas_cumprod_prev)
    sigma, sigma_s = np.sqrt(1 - diffusion.alphas_cumprod), np.sqrt(1 - diffusion.alphas_cumprod_prev)
    lam = np.log(alpha / sigma)
    gain = alpha_s - alpha * sigma_s / sigma  # alpha_s (1 - exp(-h)), h = lambda_s - lambda
    ratio = np.zeros_like(lam)  # 1 / (2 r) = h / (2 times the h of the step before)
    ratio[1:-1] = (lam[:-2] - lam[1:-1]) / (2 * (lam[1:-1] - lam[2:]))
    ratio[before == 0] = 0
    table[:, Column.X] = sigma_s / sigma
    table[:, Column.X0] = gain * (1 + ratio)
    table[:, Column.HISTORY] = -gain * ratio
    _score_moves_x0(table, diffusion)
    return table


def euler_ancestral(diffusion: Process) -> Table:
    """Euler's method to a lower noise level, then fresh noise up to the wanted one (Karras et al. 2022, as k-diffusion has it).

    There, with x / alpha for x and s = sigma / alpha: ``s_down = s'^2 / s``, ``s_up^2 = s'^2 - s_down^2`` and
    ``x' = x0 + (s_down / s) (x - x0) + s_up noise``. Back in the coordinates of this process that is DDIM with eta 1, to the
    letter; written so, the noisiest step (s about 2e4 for the cosine schedule) loses no digits.
    """
    return ddim(diffusion, eta=1.0)


@dataclass(frozen=True)
class Rule:
    """A sampler by name.

    ``build(diffusion, first)`` makes the table for a run whose first step is row ``first``. ``multistep`` rules read
    earlier predictions, which are eps with ``remember_eps`` and x0 otherwise.
    """

    build: Callable[[Process, int], Table]
    multistep: bool = False
    remember_eps: bool = False


RULES: Mapping[str, Rule] = {
    "ddpm": Rule(lambda diffusion, first: ddpm(diffusion)),
    "ddim": Rule(lambda diffusion, first: ddim(diffusion)),
    "plms": Rule(plms, multistep=True, remember_eps=True),
    "dpm++2m": Rule(dpm_solver_pp_2m, multistep=True),
    "euler-a": Rule(lambda diffusion, first: euler_ancestral(diffusion)),
}
"""Every sampler that can be asked for by name."""


def get_rule(name: str, *, argument: str = "sampler") -> Rule:
    """The rule of that name; InvalidInputError naming ``argument`` for any other."""
    if not isinstance(name, str) or name not in RULES:
        raise invalid(argument, name, "one of " + ", ".join(map(repr, RULES)))
    return RULES[name]


def draws_noise(table: Table) -> bool:
    """Whether any row of ``table`` adds noise; a run of one that does not need not generate any."""
    return bool(table[:, [Column.NOISE, Column.LEARNED_NOISE]].any())
