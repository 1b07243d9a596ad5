"""The plan of a call: its arguments, checked before any work, with one entry for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glide_fast.errors import invalid
from glide_fast.limits import require_images
from glide_fast.pipelines.checks import require_integer, require_number
from glide_fast.pipelines.components import Components
from glide_fast.pipelines.options import (
    BASE,
    DEFAULTS,
    UPSAMPLER,
    Check,
    Clip,
    SamplingOptions,
    checked,
    share_of_steps,
)
from glide_fast.pipelines.seeds import resolve_seeds
from glide_fast.pipelines.stage import Stage
from glide_fast.text import validate_prompts

__all__ = ["DEFAULTS", "Clip", "Plan", "make_plan", "share_of_steps"]

_CLIP_SCALE = 3.0


@dataclass(frozen=True)
class Plan:
    """What a call makes and how; lists have one entry for each image, in the order of the result."""

    options: SamplingOptions
    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    sources: list[int]
    """For each image, the index of the caller's picture that it starts from."""
    first: int = 0
    """Index of the plan's first image among all images of the call."""

    def part(self, chosen: slice) -> Plan:
        """The plan for some of the images."""
        lists = ("prompts", "negative_prompts", "seeds", "sources")
        first = self.first + range(len(self.seeds))[chosen].start
        return replace(self, first=first, **{name: getattr(self, name)[chosen] for name in lists})


def make_plan(
    components: Components,
    prompt: str | Sequence[str],
    options: Mapping[str, Any],
    *,
    pictures: int = 1,
) -> Plan:
    """Check the arguments of a call against what the pipeline's ``components`` can do.

    Args:
        prompt: one or a list. Prompts and pictures are paired, and one of either serves all of the other.
        options: keyword arguments of a call (:class:`glide_fast.pipelines.options.CallOptions`).
        pictures: how many the caller gives.

    Raises:
        InvalidInputError: naming the argument, its value and the accepted values.
        TypeError: for an option that there is not.
    """
    prompts = validate_prompts(prompt)
    if len(prompts) != pictures and 1 not in (len(prompts), pictures):
        raise invalid("image", f"{pictures} pictures", f"1, or one for each of the {len(prompts)} prompts")
    pairs = max(len(prompts), pictures)
    stricter = {
        "num_inference_steps": _steps_of(BASE, components.base),
        "upsample_steps": _steps_of(UPSAMPLER, components.upsampler),
    }
    values = checked(options, components.settings, stricter)
    negative = values["negative_prompt"]
    negatives = [""] if negative is None else validate_prompts(negative, argument="negative_prompt")
    if len(negatives) not in (1, pairs):
        raise invalid("negative_prompt", negatives, f"one string, or one for each of {pairs} prompts")
    values["clip"], values["clip_guidance_scale"] = _clip_guidance(
        components, values["clip"], values["clip_guidance_scale"]
    )
    if values["cache_interval"] > 1 and not components.accelerated:
        accepted = "1 with a plain model; an accelerated pipeline caches features"
        raise invalid("cache_interval", values["cache_interval"], accepted)
    each: int = values["num_images_per_prompt"]
    entries = (
        ("prompt", len(prompts), "prompts") if pairs == len(prompts) else ("image", pictures, "pictures")
    )
    require_images(*entries, "num_images_per_prompt", each)

    def spread(entries: Sequence[Any]) -> list[Any]:
        return [entries[pair if len(entries) > 1 else 0] for pair in range(pairs) for _ in range(each)]

    return Plan(
        options=SamplingOptions(**values),
        prompts=spread(prompts),
        negative_prompts=spread(negatives),
        sources=spread(range(pictures)),
        # Last, because drawing seeds advances the caller's generator, which a refused call should not do.
        seeds=resolve_seeds(values["seed"], values["generator"], pairs * each),
    )


def _steps_of(role: str, stage: Stage | None) -> Check:
    """The check for a number of steps: at most as many as the stage was trained on."""
    limit = None if stage is None else stage.steps
    return lambda name, value: require_integer(
        name, value, 1, limit, why=f", the steps the {role} was trained on"
    )


def _clip_guidance(
    components: Components, clip: Clip | None, scale: float | None
) -> tuple[Clip | None, float]:
    """The CLIP to use and its scale; (None, 0) for no CLIP guidance."""
    if scale is None:
        scale = 0.0 if clip is None else _CLIP_SCALE
    scale = require_number("clip_guidance_scale", scale, 0)
    if scale == 0:
        return None, 0.0
    clip = components.clip if clip is None else clip
    if clip is None:
        raise invalid(
            "clip_guidance_scale",
            scale,
            "0 without a CLIP; load a pipeline that has one, or give a CLIP with the call",
        )
    if not callable(getattr(clip, "cond_fn", None)):
        raise invalid("clip", type(clip).__name__, "a noise-aware CLIP with cond_fn(prompts, grad_scale)")
    reads = getattr(getattr(clip, "image_encoder", None), "image_size", None)
    base = components.base
    if base is not None and reads is not None and reads != base.image_size:
        size = base.image_size
        raise invalid(
            "clip", f"a CLIP of {reads} px pictures", f"one of {size} px pictures, as the base model makes"
        )
    return clip, scale
