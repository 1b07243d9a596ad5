"""What a pipeline gives back, and what it tells a callback on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class PipelineOutput:
    """Pictures and what is needed to make any of them again.

    images, low_res: the last stage's pictures and the base model's, in the output type that was asked for (see
        :func:`glide_fast.pipelines.images.write_images`); the same where there is no upsampler. ``low_res`` holds 8-bit levels.
    prompts, seeds: of each image, in order.
    """

    images: Any
    low_res: Any
    prompts: list[str]
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class StepEnd:
    """Handed to ``callback_on_step_end`` after each step.

    stage: "base" or "upsampler". index: of the step in its stage, from 0. total: steps of the stage.
    x0: the present prediction of the clean images, fp32 ``[N, 3, H, W]`` in [-1, 1], on the device; reading it waits for
        the device.
    """

    stage: str
    index: int
    total: int
    x0: torch.Tensor


StepCallback = Callable[[StepEnd], object]
