"""The interfaces of the network that predicts the noise inside a sampling loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``denoiser(x, timesteps)`` takes fp32 states ``[B, C, H, W]`` and timesteps of the original process, int64 ``[B]``; it returns
the network's output ``[B, 2 C, H, W]``."""


@runtime_checkable
class LoopDenoiser(Protocol):
    """A denoiser for one loop, prepared for its timesteps beforehand (such as :class:`glide_fast.runtime.bound.Bound`)."""

    def empty_inputs(self, count: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Memory for ``count`` states in the network's type and memory layout; the loop fills it at every step."""

    def __call__(
        self,
        inputs: torch.Tensor,
        timesteps: torch.Tensor,
        rows: torch.Tensor,
        *,
        shallow: bool = False,
    ) -> torch.Tensor:
        """Predict, like a :data:`Denoiser`. ``rows``: int64 ``[B]``, the indices of the timesteps in the respaced process.

        ``inputs`` may be the first half of a doubled batch. With ``shallow``, deep features of an earlier step may be used again.
        """


class PlainDenoiser:
    """Any function of states and timesteps, as a :class:`LoopDenoiser`."""

    def __init__(self, denoiser: Denoiser, device: torch.device) -> None:
        self._denoiser, self._device = denoiser, device

    def empty_inputs(self, count: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Contiguous fp32."""
        return torch.empty(count, *shape, dtype=torch.float32, device=self._device)

    def __call__(
        self,
        inputs: torch.Tensor,
        timesteps: torch.Tensor,
        rows: torch.Tensor,
        *,
        shallow: bool = False,
    ) -> torch.Tensor:
        """The function's result; ``shallow`` is ignored, so every step is a full one."""
        return self._denoiser(inputs, timesteps)
