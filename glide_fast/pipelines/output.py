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
    peak_memory: bytes. On a GPU what torch had allocated there at the most during the call (the temporaries of captured loops
        count in the call that captures them); on a CPU the largest resident set of the process so far; None where the system
        does not say.
    """

    images: Any
    low_res: Any
    prompts: list[str]
    seeds: list[int]
    peak_memory: int | None = None

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class StepEnd:
    """Handed to ``callback_on_step_end`` after each step.

    Images that do not fit into memory at once are made in parts (:mod:`glide_fast.pipelines.parts`), one after the other in each
    stage. Then ``index`` runs from 0 to ``total - 1`` for each part, and ``x0`` holds that part's images, the first of which is
    number ``first`` of the call. Steps of a larger part that turned out not to fit may have been seen before.

    stage: "base" or "upsampler". index: of the step in its stage, from 0. total: steps of the stage.
    x0: the present prediction of the clean images, fp32 ``[N, 3, H, W]`` in [-1, 1], on the device; reading it waits for
        the device.
    first: place in the call of the first image in ``x0``.
    """

    stage: str
    index: int
    total: int
    x0: torch.Tensor
    first: int = 0


StepCallback = Callable[[StepEnd], object]
