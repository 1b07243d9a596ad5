"""A Gaussian diffusion process as numbers: what follows from its betas alone (Ho et al. 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np

from glide_fast.diffusion.schedules import Array
from glide_fast.errors import invalid


class Process:
    """A schedule and the fp64 vectors ``[T]`` that follow from it.

    Args:
        betas: ``[T]``, the variance that each step adds, in (0, 1].

    Raises:
        InvalidInputError: for other betas.
    """

    def __init__(self, *, betas: Any) -> None:
        betas = np.array(betas, dtype=np.float64)
        if betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise invalid("betas", betas, "a vector of numbers in (0, 1]")
        self.betas: Array = betas
        self.num_timesteps = len(betas)
        alphas = 1.0 - betas
        self.alphas_cumprod: Array = np.cumprod(alphas)
        self.alphas_cumprod_prev: Array = np.append(1.0, self.alphas_cumprod[:-1])
        self.alphas_cumprod_next: Array = np.append(self.alphas_cumprod[1:], 0.0)

        self.sqrt_alphas_cumprod: Array = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod: Array = np.sqrt(1.0 - self.alphas_cumprod)
        self.log_one_minus_alphas_cumprod: Array = np.log(1.0 - self.alphas_cumprod)
        self.sqrt_recip_alphas_cumprod: Array = np.sqrt(1.0 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod: Array = np.sqrt(1.0 / self.alphas_cumprod - 1)

        remaining = 1.0 - self.alphas_cumprod
        self.posterior_variance: Array = betas * (1.0 - self.alphas_cumprod_prev) / remaining
        # The variance of the last step is 0; its logarithm takes the next one's. A single-step process has no next.
        self.posterior_log_variance_clipped: Array = np.log(
            np.append(self.posterior_variance[1], self.posterior_variance[1:]) if len(betas) > 1 else betas
        )
        self.posterior_mean_coef1: Array = betas * np.sqrt(self.alphas_cumprod_prev) / remaining
        self.posterior_mean_coef2: Array = (1.0 - self.alphas_cumprod_prev) * np.sqrt(alphas) / remaining
