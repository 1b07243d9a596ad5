"""Pipelines: what most people call. Text to image, upsampling, inpainting and editing, image to image."""

from __future__ import annotations

from glide_fast.pipelines.output import PipelineOutput, StepEnd
from glide_fast.pipelines.parts import SmallerBatchWarning
from glide_fast.pipelines.pipeline import GlidePipeline
from glide_fast.pipelines.stage import Stage

__all__ = ["GlidePipeline", "PipelineOutput", "SmallerBatchWarning", "Stage", "StepEnd"]
