"""Stands for ``glide_text2im.nn``."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from glide_fast.models.layers import GroupNorm32, timestep_embedding, zero_module
from glide_fast.models.unet import avg_pool_nd, conv_nd

__all__ = [
    "GroupNorm32",
    "avg_pool_nd",
    "conv_nd",
    "linear",
    "normalization",
    "scale_module",
    "timestep_embedding",
    "zero_module",
]

M = TypeVar("M", bound=nn.Module)


def linear(*args: Any, **kwargs: Any) -> nn.Linear:
    """A linear layer; arguments of :class:`torch.nn.Linear`."""
    return nn.Linear(*args, **kwargs)


def normalization(channels: int, swish: float = 0.0) -> GroupNorm32:
    """A group norm of 32 groups, with the activation that ``swish`` says."""
    return GroupNorm32(num_groups=32, num_channels=channels, swish=swish)


def scale_module(module: M, scale: float) -> M:
    """Multiply every parameter of ``module`` by ``scale``, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    return module
