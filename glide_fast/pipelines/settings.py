"""The record, written into the files of pictures, of all settings besides prompt and seed that decide how they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glide_fast.pipelines.components import Components
from glide_fast.pipelines.options import BASE, DECLARED, DEFAULTS, UPSAMPLER, Recorded
from glide_fast.pipelines.plan import Plan

STAGES = (BASE, UPSAMPLER)


def settings_of(components: Components, plan: Plan, stages: Sequence[str] = STAGES) -> dict[str, Any]:
    """The settings of a call that ran these ``stages``, with the pipeline's own defaults; values as JSON has them.

    ``negative_prompt`` is there where there was one, a list of one an image where they differ.
    """
    settings: dict[str, Any] = {} if components.name is None else {"model": components.name}
    settings["dtype"] = str(components.dtype).removeprefix("torch.")
    if "training_step" in components.settings:  # a run that goes on is another model at its next checkpoint
        settings["training_step"] = components.settings["training_step"]
    if not components.accelerated:
        settings["accelerate"] = False
    ran = {stage for stage in stages if stage in components.by_name}
    for name, declared in DECLARED.items():
        value = getattr(plan.options, name)
        changed = declared.setting is Recorded.CHANGED and value != DEFAULTS[name]
        if ran.intersection(declared.stages) and (declared.setting is Recorded.ALWAYS or changed):
            settings[name] = value
    if BASE in stages:
        if any(plan.negative_prompts):
            alike = len(set(plan.negative_prompts)) == 1
            settings["negative_prompt"] = plan.negative_prompts[0] if alike else plan.negative_prompts
        if plan.options.clip is not None:
            settings["clip_guidance_scale"] = plan.options.clip_guidance_scale
    return settings


def steps_of(components: Components, plan: Plan, stages: Sequence[str] = STAGES) -> dict[str, int]:
    """How many steps each of these ``stages`` takes for a picture."""
    taken = {BASE: plan.options.num_inference_steps, UPSAMPLER: plan.options.upsampler_steps_taken}
    return {stage: taken[stage] for stage in stages if stage in components.by_name}
