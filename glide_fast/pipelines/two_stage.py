"""The two runs behind every picture: the base model, and the upsampler on what it made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from glide_fast.diffusion.noise import BASE_STREAMS, UPSAMPLER_STREAMS
from glide_fast.pipelines.conditioning import doubled
from glide_fast.pipelines.images import quantise, resize_images, resize_masks, write_images
from glide_fast.pipelines.looping import sample
from glide_fast.pipelines.output import PipelineOutput, StepEnd
from glide_fast.pipelines.parts import in_parts
from glide_fast.pipelines.plan import Plan, share_of_steps
from glide_fast.pipelines.settings import STAGES, settings_of
from glide_fast.pipelines.stage import Stage

if TYPE_CHECKING:
    from glide_fast.pipelines.pipeline import GlidePipeline

_FAST27 = 27


class Known:
    """The part of the pictures that is given: ``images`` ``[N, 3, H, W]`` in [-1, 1], ``masks`` ``[N, 1, H, W]``, 1 = keep."""

    def __init__(self, images: torch.Tensor, masks: torch.Tensor) -> None:
        self.images, self.masks = images, masks

    def at(self, stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
        """Both at the size and on the device of ``stage``."""
        size, device = stage.image_size, stage.device
        return resize_images(self.images, size).to(device), resize_masks(self.masks, size).to(device)

    def part(self, chosen: slice) -> Known:
        """Of some of the images."""
        return Known(self.images[chosen], self.masks[chosen])


def started_from(image: torch.Tensor, strength: float, steps: int) -> dict[str, Any]:
    """The loop's options for a run that takes the last ``strength`` of ``steps`` steps (one at least) from a noised picture."""
    return {"image": image, "first": share_of_steps(strength, steps) - 1}


def run_base(
    pipeline: GlidePipeline,
    plan: Plan,
    *,
    known: Known | None = None,
    image: torch.Tensor | None = None,
    strength: float = 1.0,
) -> torch.Tensor:
    """Sample from the base model; ``[N, 3, size, size]`` in [-1, 1], rounded to 8-bit levels.

    ``image`` ``[N, 3, size, size]`` is noised to the last ``strength`` of the process and sampled from there.
    """
    stage = pipeline.require_base()
    pipeline.bring(stage)

    def make(chosen: slice) -> torch.Tensor:
        here = None if known is None else known.part(chosen)
        start = None if image is None else image[chosen]
        return stage.lock.run(_base, stage, plan.part(chosen), here, start, strength)

    return in_parts(stage, "base", len(plan.seeds), make, pipeline.release_stages)


def run_upsampler(
    pipeline: GlidePipeline, plan: Plan, low_res: torch.Tensor, *, known: Known | None = None
) -> torch.Tensor | None:
    """Enlarge ``low_res`` ``[N, 3, h, w]`` in [-1, 1] to ``[N, 3, size, size]``; None for a pipeline without an upsampler."""
    stage = pipeline.upsampler
    if stage is None:
        return None
    pipeline.bring(stage)

    def make(chosen: slice) -> torch.Tensor:
        here = None if known is None else known.part(chosen)
        return stage.lock.run(_upsampler, stage, plan.part(chosen), low_res[chosen], here)

    return in_parts(stage, "upsampler", len(plan.seeds), make, pipeline.release_stages)


def _base(
    stage: Stage, plan: Plan, known: Known | None, image: torch.Tensor | None, strength: float
) -> torch.Tensor:
    process = stage.process(str(plan.num_inference_steps))
    # A scale of 1 is the conditional prediction itself, at half the cost.
    guidance_scale = None if plan.guidance_scale == 1.0 else plan.guidance_scale
    text = stage.prompts.encode(plan.prompts)
    if guidance_scale is not None:
        text = doubled(text, stage.prompts.encode(plan.negative_prompts))
    score = None
    if plan.clip is not None:
        score = plan.clip.cond_fn(plan.prompts, plan.clip_guidance_scale)
    options: dict[str, Any] = {}
    if image is not None:
        options = started_from(image.to(stage.device), strength, process.num_timesteps)
    images = _run(
        stage,
        plan,
        "base",
        process,
        {"text": text},
        known,
        rule=plan.sampler,
        streams=BASE_STREAMS,
        guidance_scale=guidance_scale,
        guidance_interval=plan.guidance_interval,
        cache_interval=plan.cache_interval,
        score=score,
        **options,
    )
    return quantise(images)


def _upsampler(stage: Stage, plan: Plan, low_res: torch.Tensor, known: Known | None) -> torch.Tensor:
    """Without guidance, as GLIDE does."""
    steps = plan.upsample_steps
    whole = plan.upsample_strength == 1.0
    fits = stage.steps >= 5 * 10  # fast27 takes ten steps of one fifth of the process
    # fast27 spends its steps on the noisiest and the cleanest fifth; a run that starts midway would miss the first.
    respacing = "fast27" if steps == _FAST27 and fits and whole else str(steps)
    options: dict[str, Any] = {}
    if not whole:
        options = started_from(
            resize_images(low_res, stage.image_size).to(stage.device), plan.upsample_strength, steps
        )
    conditioning = {"text": stage.prompts.encode(plan.prompts), "low_res": low_res.to(stage.device)}
    return _run(
        stage,
        plan,
        "upsampler",
        stage.process(respacing),
        conditioning,
        known,
        rule=plan.upsample_sampler,
        streams=UPSAMPLER_STREAMS,
        noise_scale=plan.upsample_temp,
        cache_interval=plan.cache_interval,
        **options,
    )


def _run(
    stage: Stage,
    plan: Plan,
    name: str,
    process: Any,
    conditioning: dict[str, Any],
    known: Known | None,
    **options: Any,
) -> torch.Tensor:
    """Sample ``stage`` with what its network is told besides state and timestep; ``[N, 3, size, size]`` in [-1, 1]."""
    device = stage.device
    if known is not None:
        images, masks = known.at(stage)
        options |= {"known": images, "known_mask": masks}
        if stage.inpaints:
            copies = 1 if options.get("guidance_scale") is None else 2
            conditioning = conditioning | {
                "inpaint_image": images.repeat(copies, 1, 1, 1),
                "inpaint_mask": masks.repeat(copies, 1, 1, 1),
            }

    seeds = torch.tensor(plan.seeds, dtype=torch.int64, device=device)
    total = options["first"] + 1 if "first" in options else process.num_timesteps
    with tqdm(total=total, desc=name, unit="step", disable=not plan.progress) as bar:

        def on_step(index: int, total: int, x0: torch.Tensor) -> None:
            bar.update()
            if plan.callback is not None:
                plan.callback(StepEnd(name, index, total, x0, plan.first))

        watched = plan.progress or plan.callback is not None
        images_made = sample(
            stage, process, seeds, conditioning, on_step if watched else None, **options
        ).clamp(-1, 1)
    if (
        known is not None
    ):  # rules that extrapolate at their last step do not end on the known region by themselves
        images_made = torch.where(masks.bool(), images, images_made)
    return images_made


def finish(
    pipeline: GlidePipeline,
    plan: Plan,
    low_res: torch.Tensor,
    images: torch.Tensor | None,
    *,
    stages: Sequence[str] = STAGES,
    **settings: Any,
) -> PipelineOutput:
    """The result of a run; ``images`` None where there is no upsampler.

    ``settings`` go into the pictures' files beside those of the plan for ``stages``.
    """
    small = write_images(low_res, plan.output_type)
    return PipelineOutput(
        images=small if images is None else write_images(images, plan.output_type),
        low_res=small,
        prompts=plan.prompts,
        seeds=plan.seeds,
        settings=settings_of(pipeline, plan, stages) | settings,
    )
