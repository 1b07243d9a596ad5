"""The upsampler alone, on pictures of the size it enlarges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines.images import ImageInput, quantise, read_images, require_size
from glide_fast.pipelines.output import PipelineOutput
from glide_fast.pipelines.plan import make_plan
from glide_fast.pipelines.two_stage import finish, run_upsampler
from glide_fast.pipelines.words import warn_about_prompts

if TYPE_CHECKING:
    from glide_fast.pipelines.pipeline import GlidePipeline

_ENLARGES = 4  # what both released and paper upsamplers do, where no base model says otherwise


def upsample(
    pipeline: GlidePipeline, image: ImageInput, prompt: str | Sequence[str], **options: Any
) -> PipelineOutput:
    """See :meth:`glide_fast.pipelines.GlidePipeline.upsample`."""
    stage = pipeline.upsampler
    if stage is None:
        raise InvalidInputError("upsample: this pipeline has no upsampler; accepted: a pipeline that has one")
    pictures = read_images(image)
    size = pipeline.base.image_size if pipeline.base is not None else stage.image_size // _ENLARGES
    require_size(pictures, (size, size), "image", "what the upsampler reads")
    plan = make_plan(pipeline, prompt, pictures=len(pictures), **options)
    warn_about_prompts(pipeline, plan, base=False)
    low_res = quantise(pictures[plan.sources])
    images = run_upsampler(pipeline, plan, low_res)
    return finish(pipeline, plan, low_res, images, stages=("upsampler",))
