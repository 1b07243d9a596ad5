"""What decides a call's pictures besides prompt and seed, as it is written into their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glide_fast.pipelines.plan import DEFAULTS, Plan

if TYPE_CHECKING:
    from glide_fast.pipelines.pipeline import GlidePipeline

STAGES = ("base", "upsampler")

_SETTINGS = {
    "base": ("num_inference_steps", "guidance_scale", "sampler"),
    "upsampler": ("upsample_steps", "upsample_sampler", "upsample_temp", "upsample_strength"),
}
_WHERE_CHANGED = {
    "base": ("guidance_interval", "cache_interval"),
    "upsampler": ("cache_interval",),
}


def settings_of(pipeline: GlidePipeline, plan: Plan, stages: Sequence[str] = STAGES) -> dict[str, Any]:
    """The settings of a call that ran these ``stages``, with the pipeline's own defaults; values as JSON has them.

    ``negative_prompt`` is there where there was one, a list of one an image where they differ.
    """
    settings: dict[str, Any] = {} if pipeline.name is None else {"model": pipeline.name}
    settings["dtype"] = str(pipeline.dtype).removeprefix("torch.")
    if "training_step" in pipeline.settings:  # a run that goes on is another model at its next checkpoint
        settings["training_step"] = pipeline.settings["training_step"]
    if not pipeline.accelerated:
        settings["accelerate"] = False
    for stage in _present(pipeline, stages):
        settings |= {name: getattr(plan, name) for name in _SETTINGS[stage]}
        changed = {name: getattr(plan, name) for name in _WHERE_CHANGED[stage]}
        settings |= {name: value for name, value in changed.items() if value != DEFAULTS[name]}
    if "base" in stages:
        if any(plan.negative_prompts):
            alike = len(set(plan.negative_prompts)) == 1
            settings["negative_prompt"] = plan.negative_prompts[0] if alike else plan.negative_prompts
        if plan.clip is not None:
            settings["clip_guidance_scale"] = plan.clip_guidance_scale
    return settings


def steps_of(pipeline: GlidePipeline, plan: Plan, stages: Sequence[str] = STAGES) -> dict[str, int]:
    """How many steps each of these ``stages`` takes for a picture."""
    taken = {"base": plan.num_inference_steps, "upsampler": plan.upsampler_steps_taken}
    return {stage: taken[stage] for stage in _present(pipeline, stages)}


def _present(pipeline: GlidePipeline, stages: Sequence[str]) -> list[str]:
    return [stage for stage in stages if getattr(pipeline, stage) is not None]
