"""Stands for ``glide_text2im.gaussian_diffusion``."""

from __future__ import annotations

from glide_fast.diffusion.gaussian import GaussianDiffusion
from glide_fast.diffusion.schedules import betas_for_alpha_bar, get_beta_schedule, get_named_beta_schedule

__all__ = ["GaussianDiffusion", "betas_for_alpha_bar", "get_beta_schedule", "get_named_beta_schedule"]
