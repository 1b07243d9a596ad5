"""Runs a stage's sampling loop: kept and captured for accelerated models, made anew for plain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.diffusion.sampling import Callback, SamplingLoop
from glide_fast.pipelines.stage import Stage
from glide_fast.runtime.captured import CapturedLoop
from glide_fast.runtime.model import Accelerated

_VALUES = ("guidance_scale", "known", "known_mask", "image")
"""Arguments of a loop that may differ between runs of one; what they are and whether they are there may not."""


def sample(
    stage: Stage,
    process: SpacedDiffusion,
    seeds: torch.Tensor,
    conditioning: Mapping[str, Any],
    callback: Callback | None,
    **options: Any,
) -> torch.Tensor:
    """Sample ``stage``.

    Args:
        conditioning: what the network is told beside state and timestep, for a batch that is doubled where there is guidance.
        options: of :class:`~glide_fast.diffusion.sampling.SamplingLoop`.

    Returns:
        fp32 ``[N, 3, size, size]``.
    """
    shape = (3, stage.image_size, stage.image_size)
    told = {name: value for name, value in conditioning.items() if value is not None}
    model = stage.model
    if not isinstance(model, Accelerated):
        return SamplingLoop(_plain(stage, told), process, seeds, shape, **options).run(callback)

    values = {name: options[name] for name in _VALUES if options.get(name) is not None}
    fixed = {name: value for name, value in options.items() if name not in _VALUES}

    def make() -> CapturedLoop:
        copies = 1 if options.get("guidance_scale") is None else 2
        bound = model.bind(process.timestep_map, copies * len(seeds), shape, **told)
        if options.get("cache_interval", 1) > 1:
            bound.remember_deep()
        loop = SamplingLoop(bound, process, seeds, shape, **options)
        return CapturedLoop(loop, stage.recorder, model.addresses, whole_loop=stage.whole_loop)

    if options.get("score") is not None:  # a function of this run's prompts
        return make().run(callback)
    key = (
        len(seeds),
        tuple(process.timestep_map),
        tuple(sorted(values)),
        tuple(sorted(told)),
        tuple(sorted(fixed.items())),
    )
    captured, new = stage.loops.get(key, make)
    if not new:
        captured.renew(told, seeds, values)
    return captured.run(callback)


def _plain(stage: Stage, told: Mapping[str, Any]) -> Any:
    model = stage.model.eval()

    def first(value: Any, count: int) -> Any:
        if isinstance(value, Mapping):
            return {name: part[:count] for name, part in value.items()}
        return value[:count]

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        # Steps without guidance read the conditional half of a doubled batch.
        return model(x, timesteps, **{name: first(value, len(x)) for name, value in told.items()})

    return denoise
