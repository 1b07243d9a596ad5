"""Text to image: the base model on the prompts, the upsampler on its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glide_fast.pipelines.output import PipelineOutput
from glide_fast.pipelines.plan import make_plan
from glide_fast.pipelines.two_stage import finish, run_base, run_upsampler
from glide_fast.pipelines.words import warn_about_prompts

if TYPE_CHECKING:
    from glide_fast.pipelines.pipeline import GlidePipeline


def text_to_image(pipeline: GlidePipeline, prompt: str | Sequence[str], **options: Any) -> PipelineOutput:
    """See :meth:`glide_fast.pipelines.GlidePipeline.__call__`."""
    pipeline.require_base()
    plan = make_plan(pipeline, prompt, **options)
    warn_about_prompts(pipeline, plan)
    low_res = run_base(pipeline, plan)
    return finish(pipeline, plan, low_res, run_upsampler(pipeline, plan, low_res))
