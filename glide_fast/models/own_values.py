"""Initial values that cost torch's generator no draw, for parameters that the official constructors leave uninitialised.

Who seeds torch and then creates a model must get the same numbers afterwards as with the official package, which draws nothing
for these parameters. Uninitialised memory may hold NaN, so their values come from a generator of their own.
"""

from __future__ import annotations

import zlib

import torch
from torch import nn


def own_generator(purpose: str) -> torch.Generator:
    """A generator on the CPU, seeded by the seed that torch's own has now and by ``purpose``; torch's own does not advance."""
    return torch.Generator("cpu").manual_seed((torch.initial_seed() + zlib.crc32(purpose.encode())) % 2**63)


def own_normal_parameter(
    shape: tuple[int, ...], std: float, generator: torch.Generator, device: torch.device | None = None
) -> nn.Parameter:
    """A trainable fp32 tensor of normal values drawn from ``generator`` (on the CPU), on ``device`` or torch's default device."""
    device = torch.get_default_device() if device is None else device
    if device.type == "meta":
        return nn.Parameter(torch.empty(shape, dtype=torch.float32, device=device))
    values = torch.empty(shape, dtype=torch.float32, device="cpu").normal_(std=std, generator=generator)
    return nn.Parameter(values.to(device))
