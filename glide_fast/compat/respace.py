"""Stands for ``glide_text2im.respace``."""

from __future__ import annotations

from glide_fast.diffusion.gaussian import GaussianDiffusion
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps

__all__ = ["GaussianDiffusion", "SpacedDiffusion", "space_timesteps"]
