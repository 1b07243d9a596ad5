"""Image to image: the base model from a noised picture on (Meng et al. 2022), then the upsampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glide_fast.pipelines.checks import require_strength
from glide_fast.pipelines.images import ImageInput, read_images, require_square, resize_images
from glide_fast.pipelines.output import PipelineOutput
from glide_fast.pipelines.plan import make_plan
from glide_fast.pipelines.two_stage import finish, run_base, run_upsampler
from glide_fast.pipelines.words import warn_about_prompts

if TYPE_CHECKING:
    from glide_fast.pipelines.pipeline import GlidePipeline


def image_to_image(
    pipeline: GlidePipeline, prompt: str | Sequence[str], image: ImageInput, strength: float, **options: Any
) -> PipelineOutput:
    """See :meth:`glide_fast.pipelines.GlidePipeline.image_to_image`."""
    base = pipeline.require_base()
    strength = require_strength("strength", strength)
    pictures = read_images(image)
    require_square(pictures, "image")
    plan = make_plan(pipeline, prompt, pictures=len(pictures), **options)
    warn_about_prompts(pipeline, plan)
    start = resize_images(pictures, base.image_size)[plan.sources]
    low_res = run_base(pipeline, plan, image=start, strength=strength)
    images = run_upsampler(pipeline, plan, low_res)
    return finish(pipeline, plan, low_res, images, strength=strength)
