"""The diffusion process, its samplers as coefficient tables, noise that depends only on (seed, step, element), and the loops."""

from glide_fast.diffusion.gaussian import GaussianDiffusion
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.schedules import get_named_beta_schedule

__all__ = ["GaussianDiffusion", "SpacedDiffusion", "get_named_beta_schedule", "space_timesteps"]
