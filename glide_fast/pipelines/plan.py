"""A call's arguments, checked before any work and spread out to one entry an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from glide_fast.diffusion.plan import Interval, check_interval
from glide_fast.diffusion.rules import RULES
from glide_fast.errors import invalid
from glide_fast.limits import MOST_IMAGES, require_images
from glide_fast.pipelines.checks import (
    require_choice,
    require_flag,
    require_integer,
    require_number,
    require_strength,
)
from glide_fast.pipelines.images import OUTPUT_TYPES
from glide_fast.pipelines.output import StepCallback
from glide_fast.pipelines.seeds import Generator, Seed, resolve_seeds
from glide_fast.runtime.placement import refuse_half_on_cpu
from glide_fast.text import validate_prompts

if TYPE_CHECKING:
    from glide_fast.pipelines.pipeline import GlidePipeline

DEFAULTS: Mapping[str, Any] = {
    "num_inference_steps": 100,
    "upsample_steps": 27,
    "guidance_scale": 3.0,
    "sampler": "ddpm",
    "upsample_sampler": "ddim",
    "upsample_temp": 0.997,
    "upsample_strength": 1.0,
    "guidance_interval": None,
    "cache_interval": 1,
}
"""What a pipeline's settings may override: GLIDE's usual values (Nichol et al. 2021, and its released notebooks)."""

_CLIP_SCALE = 3.0


class Clip(Protocol):
    """A noise-aware CLIP, such as :class:`glide_fast.models.clip.CLIPModel` or the official one."""

    def cond_fn(self, prompts: list[str], grad_scale: float) -> Any: ...


def share_of_steps(strength: float, steps: int) -> int:
    """Steps of a run that takes the last ``strength`` of ``steps``: one at least."""
    return max(1, round(strength * steps))


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know; lists have one entry an image, in the order of the result."""

    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    sources: list[int]
    """Which of the caller's pictures each image is made from."""
    num_inference_steps: int
    upsample_steps: int
    guidance_scale: float
    sampler: str
    upsample_sampler: str
    upsample_temp: float
    upsample_strength: float
    guidance_interval: Interval | None
    cache_interval: int
    clip: Clip | None
    clip_guidance_scale: float
    output_type: str
    callback: StepCallback | None
    progress: bool
    first: int = 0
    """Place of the first image in the call that this is a part of."""

    @property
    def upsampler_steps_taken(self) -> int:
        """Of ``upsample_steps``."""
        return share_of_steps(self.upsample_strength, self.upsample_steps)

    def part(self, chosen: slice) -> Plan:
        """The plan for some of the images."""
        lists = ("prompts", "negative_prompts", "seeds", "sources")
        first = self.first + range(len(self.seeds))[chosen].start
        return replace(self, first=first, **{name: getattr(self, name)[chosen] for name in lists})


def make_plan(
    pipeline: GlidePipeline,
    prompt: str | Sequence[str],
    *,
    pictures: int = 1,
    num_inference_steps: int | None = None,
    upsample_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    num_images_per_prompt: int = 1,
    generator: Generator | None = None,
    seed: Seed | None = None,
    sampler: str | None = None,
    upsample_sampler: str | None = None,
    upsample_temp: float | None = None,
    upsample_strength: float | None = None,
    guidance_interval: Interval | None = None,
    cache_interval: int | None = None,
    clip: Clip | None = None,
    clip_guidance_scale: float | None = None,
    output_type: str = "pil",
    callback_on_step_end: StepCallback | None = None,
    progress: bool = True,
) -> Plan:
    """Check the arguments of a call (see :meth:`GlidePipeline.__call__`) against what ``pipeline`` can do.

    ``pictures`` counts the caller's pictures; prompts and pictures are paired, and one of either serves all of the other.

    Raises:
        InvalidInputError: naming the argument, what was given and what is accepted.
    """
    refuse_half_on_cpu(pipeline.dtype, pipeline.device)
    prompts = validate_prompts(prompt)
    if len(prompts) != pictures and 1 not in (len(prompts), pictures):
        raise invalid("image", f"{pictures} pictures", f"1, or one for each of the {len(prompts)} prompts")
    pairs = max(len(prompts), pictures)
    negatives = (
        [""] if negative_prompt is None else validate_prompts(negative_prompt, argument="negative_prompt")
    )
    if len(negatives) not in (1, pairs):
        raise invalid("negative_prompt", negatives, f"one string, or one for each of {pairs} prompts")
    each = require_integer("num_images_per_prompt", num_images_per_prompt, 1, MOST_IMAGES)
    entries = (
        ("prompt", len(prompts), "prompts") if pairs == len(prompts) else ("image", pictures, "pictures")
    )
    require_images(*entries, "num_images_per_prompt", each)

    settings = {**DEFAULTS, **pipeline.settings}

    def setting(name: str, given: Any) -> Any:
        return settings[name] if given is None else given

    def spread(values: Sequence[Any]) -> list[Any]:
        return [values[pair if len(values) > 1 else 0] for pair in range(pairs) for _ in range(each)]

    def steps(name: str, given: int | None, model: str) -> int:
        stage = getattr(pipeline, model)
        limit = None if stage is None else stage.steps
        return require_integer(
            name, setting(name, given), 1, limit, why=f", the steps the {model} was trained on"
        )

    samplers = tuple(RULES)
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise invalid("callback_on_step_end", callback_on_step_end, "a function of one StepEnd, or None")
    clip, clip_scale = _clip_guidance(pipeline, clip, clip_guidance_scale)
    interval = check_interval(setting("guidance_interval", guidance_interval))
    cached = require_integer("cache_interval", setting("cache_interval", cache_interval), 1)
    if cached > 1 and not pipeline.accelerated:
        raise invalid(
            "cache_interval", cached, "1 with a plain model; an accelerated pipeline caches features"
        )
    return Plan(
        prompts=spread(prompts),
        negative_prompts=spread(negatives),
        sources=spread(range(pictures)),
        num_inference_steps=steps("num_inference_steps", num_inference_steps, "base"),
        upsample_steps=steps("upsample_steps", upsample_steps, "upsampler"),
        guidance_scale=require_number("guidance_scale", setting("guidance_scale", guidance_scale), 0),
        sampler=require_choice("sampler", setting("sampler", sampler), samplers),
        upsample_sampler=require_choice(
            "upsample_sampler", setting("upsample_sampler", upsample_sampler), samplers
        ),
        upsample_temp=require_number("upsample_temp", setting("upsample_temp", upsample_temp), 0),
        upsample_strength=require_strength(
            "upsample_strength", setting("upsample_strength", upsample_strength)
        ),
        guidance_interval=interval,
        cache_interval=cached,
        clip=clip,
        clip_guidance_scale=clip_scale,
        output_type=require_choice("output_type", output_type, OUTPUT_TYPES),
        callback=callback_on_step_end,
        progress=require_flag("progress", progress),
        # Last, because drawing seeds advances the caller's generator, which a refused call should not do.
        seeds=resolve_seeds(seed, generator, pairs * each),
    )


def _clip_guidance(
    pipeline: GlidePipeline, clip: Clip | None, scale: float | None
) -> tuple[Clip | None, float]:
    """The CLIP to use and its scale; (None, 0) for no CLIP guidance."""
    if scale is None:
        scale = 0.0 if clip is None else _CLIP_SCALE
    scale = require_number("clip_guidance_scale", scale, 0)
    if scale == 0:
        return None, 0.0
    clip = pipeline.clip if clip is None else clip
    if clip is None:
        raise invalid(
            "clip_guidance_scale",
            scale,
            "0 without a CLIP; load a pipeline that has one, or give a CLIP with the call",
        )
    if not callable(getattr(clip, "cond_fn", None)):
        raise invalid("clip", type(clip).__name__, "a noise-aware CLIP with cond_fn(prompts, grad_scale)")
    reads = getattr(getattr(clip, "image_encoder", None), "image_size", None)
    if pipeline.base is not None and reads is not None and reads != pipeline.base.image_size:
        size = pipeline.base.image_size
        raise invalid(
            "clip", f"a CLIP of {reads} px pictures", f"one of {size} px pictures, as the base model makes"
        )
    return clip, scale
