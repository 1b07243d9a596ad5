"""A picture from a prompt: tokens, text, both loops, and the picture's bytes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from glide_fast.bench import contestants
from glide_fast.bench.baselines import released_dtype
from glide_fast.bench.contest import OURS, Competitor, Contest
from glide_fast.bench.gate import Gate, error
from glide_fast.bench.measurement import Measurement
from glide_fast.bench.parts.step import OneStep
from glide_fast.bench.settings import Settings
from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.timing import Effort
from glide_fast.bench.work import PROMPT, Work
from glide_fast.pipelines import GlidePipeline
from glide_fast.pipelines.stage import Stage

EAGER = "reference eager, text encoded once"


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time a pipeline of two of the models: the first that does not upsample, and the first that does."""
    found = subjects(settings.models)
    base = next((subject for subject in found if not subject.upsamples), None)
    upsampler = next((subject for subject in found if subject.upsamples), None)
    stages = [subject for subject in (base, upsampler) if subject is not None]
    device, dtype = settings.target_device, settings.target_dtype
    # The error is that of one step of each stage: over a whole loop the difference from fp32 grows, also for a correct model.
    wrong, allowed = max(
        (_error(subject, settings) for subject in stages), key=lambda pair: pair[0] / pair[1]
    )

    def plain(subject: Subject | None) -> Stage | None:
        if subject is None:
            return None
        return Stage(stock(subject.model, dtype=released_dtype(device), device=device), subject.options)

    def fast(subject: Subject | None) -> Stage | None:
        return None if subject is None else Stage(copy.deepcopy(subject.model), subject.options)

    def ready(pipeline: GlidePipeline) -> Competitor:
        return Competitor(functools.partial(_call, pipeline, settings))

    pictures, side = settings.batch or 1, stages[-1].image_size
    steps = f"{settings.steps} steps a stage" if settings.steps else "the usual steps"
    contest = Contest(
        "pipeline",
        " + ".join(subject.name for subject in stages),
        f"{pictures} x {side} px, {steps}",
        device.type,
        truth=None,
        allowed=None,
        wall=True,
    )
    usual = stages[0].settings
    if "none" not in settings.baselines:
        contest.enter(EAGER, lambda: ready(GlidePipeline(plain(base), plain(upsampler), settings=usual)))
    contest.enter(
        OURS,
        lambda: ready(GlidePipeline(fast(base), fast(upsampler), settings=usual).accelerate(device, dtype)),
    )
    for row in contest.run(Effort.of_long_calls(settings.samples, settings.seconds)):
        if row.contestant == OURS:
            row = replace(row, error=wrong, allowed=allowed)
            row = replace(row, speedup=None) if row.gate == "red" else row
        each = "" if row.value is None else f"{row.value / pictures:.4g} s a picture"
        yield replace(row, note="; ".join(filter(None, (each, row.note))))


def _call(pipeline: GlidePipeline, settings: Settings) -> torch.Tensor:
    pictures = settings.batch or 1
    options: dict[str, Any] = {}
    if settings.steps is not None:
        options = {"num_inference_steps": settings.steps, "upsample_steps": settings.steps}
    if pipeline.base is None:
        upsampler = pipeline.stages[0]
        low_res = torch.zeros(pictures, 3, upsampler.image_size // 4, upsampler.image_size // 4)
        result = pipeline.upsample(low_res, PROMPT, seed=0, output_type="pt", progress=False, **options)
    else:
        result = pipeline(
            PROMPT,
            num_images_per_prompt=pictures,
            seed=0,
            output_type="pt",
            progress=False,
            **options,  # type: ignore[arg-type]
        )
    images: torch.Tensor = result.images  # type: ignore[assignment]
    return images


def _error(subject: Subject, settings: Settings) -> tuple[float, float]:
    """The error of one step of the accelerated model, and the largest that is allowed."""
    work = Work(subject, None, settings.target_device)
    gate = Gate(subject, work)
    contestant = contestants.ours(subject, work, settings.target_dtype)
    return error(OneStep(contestant, work).predict(), gate.truth), gate.allowed(contestant.dtype)
