"""Samplers as coefficient tables: each rule is a linear update of the state, x0, earlier predictions and fresh noise.

A table is ``[steps, Column.COUNT]`` fp64, row i for respaced step i (row 0 is the last step taken); the arithmetic that reads
it is :mod:`glide_fast.ops.guided_step`. Notation: abar_t is the product of ``1 - beta`` up to t, abar_s that of the step
before (1 before the first), alpha = sqrt(abar), sigma = sqrt(1 - abar).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glide_fast.errors import invalid
from glide_fast.ops.guided_step import Column

if TYPE_CHECKING:
    from glide_fast.diffusion.gaussian import GaussianDiffusion

Table = NDArray[np.float64]


def _common(diffusion: GaussianDiffusion) -> Table:
    """What every rule shares: x0 from eps, and the learned variance's range."""
    table = np.zeros((diffusion.num_timesteps, Column.COUNT))
    table[:, Column.SQRT_RECIP] = diffusion.sqrt_recip_alphas_cumprod
    table[:, Column.SQRT_RECIPM1] = diffusion.sqrt_recipm1_alphas_cumprod
    table[:, Column.MIN_LOG] = diffusion.posterior_log_variance_clipped
    table[:, Column.MAX_LOG] = np.log(diffusion.betas)
    return table


def _score_moves_x0(table: Table, diffusion: GaussianDiffusion) -> None:
    """eps - sigma score (Song et al. 2020, eq. 14 as guidance uses it) written as a change of x0."""
    table[:, Column.SCORE_TO_X0] = (
        diffusion.sqrt_recipm1_alphas_cumprod * diffusion.sqrt_one_minus_alphas_cumprod
    )


def ddpm(diffusion: GaussianDiffusion) -> Table:
    """Ancestral sampling with the learned variance (Ho et al. 2020, algorithm 2 and eq. 7); no noise after the last step."""
    table = _common(diffusion)
    table[:, Column.X] = diffusion.posterior_mean_coef2
    table[:, Column.X0] = diffusion.posterior_mean_coef1
    table[1:, Column.LEARNED_NOISE] = 1.0
    table[:, Column.SCORE_TO_MEAN] = 1.0
    return table


def ddim(diffusion: GaussianDiffusion, eta: float = 0.0) -> Table:
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
