"""The options of a run of the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glide_fast.bench.timing import Effort
from glide_fast.runtime.placement import resolve_device, resolve_dtype
from glide_fast.runtime.precision import fastest_dtype


@dataclass(frozen=True)
class Settings:
    """Options of ``glide-fast bench``; None leaves the choice to the part of the benchmarks, or to the device."""

    models: tuple[str, ...] = ("small",)
    device: str | None = None
    dtype: str | None = None  # the type that glide_fast runs in
    batch: int | None = None
    steps: int | None = None
    baselines: tuple[str, ...] = ("default",)
    ablate: bool = False
    samples: int = 7
    seconds: float = 120.0  # the longest time of one comparison; three samples are taken in any case

    @property
    def target_device(self) -> torch.device:
        """The device to measure on."""
        return resolve_device(self.device)

    @property
    def target_dtype(self) -> torch.dtype:
        """The type of the accelerated models."""
        return (
            fastest_dtype(self.target_device)
            if self.dtype is None
            else resolve_dtype(self.dtype, self.target_device)
        )

    @property
    def effort(self) -> Effort:
        """How often to repeat."""
        return Effort(
            warm=3,
            samples=self.samples,
            sample_seconds=2e-3,
            seconds=self.seconds,
            least=min(3, self.samples),
        )
