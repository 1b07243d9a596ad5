"""Fewer or cheaper steps: the time of a picture, and its difference from the full sampler's picture of the same seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.settings import Settings
from glide_fast.bench.timing import Effort, interleaved
from glide_fast.pipelines import GlidePipeline

PROMPTS = (
    "a red circle",
    "a large purple pyramid",
    "a red cube on top of a blue cube",
    "a green star",
)
FULL = "full sampler"
FAST: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dpm++2m, 25 steps", {"sampler": "dpm++2m", "num_inference_steps": 25}),
    ("dpm++2m, 20 steps", {"sampler": "dpm++2m", "num_inference_steps": 20}),
    ("dpm++2m, 15 steps", {"sampler": "dpm++2m", "num_inference_steps": 15}),
    ("guidance in the middle 0.2 to 0.8", {"guidance_interval": (0.2, 0.8)}),
    ("every 2nd step in full", {"cache_interval": 2}),
    ("every 3rd step in full", {"cache_interval": 3}),
    (
        "dpm++2m, 20 steps, guidance 0.2 to 0.8, every 2nd in full",
        {
            "sampler": "dpm++2m",
            "num_inference_steps": 20,
            "guidance_interval": (0.2, 0.8),
            "cache_interval": 2,
        },
    ),
)


def psnr(got: torch.Tensor, want: torch.Tensor) -> float:
    """Peak signal to noise in dB of pictures ``[N, 3, H, W]`` in [0, 1], the mean over pictures."""
    squares = (got.double() - want.double()).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return float((-10 * squares.log10()).mean())


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time and PSNR of each sampler on pipelines with trained weights; in the settings ``batch`` is pictures of each prompt."""
    for name in settings.models:
        pipeline = GlidePipeline.from_pretrained(
            name, device=settings.device, dtype=settings.target_dtype, progress=False
        )
        yield from _of_pipeline(name, pipeline, settings)


def _of_pipeline(name: str, pipeline: GlidePipeline, settings: Settings) -> Iterator[Measurement]:
    pipeline.require_base()
    each = settings.batch or 1
    usual: dict[str, Any] = {}
    if settings.steps is not None:
        usual = {"num_inference_steps": settings.steps, "upsample_steps": settings.steps}

    def make(options: dict[str, Any]) -> torch.Tensor:
        result = pipeline(
            list(PROMPTS),
            num_images_per_prompt=each,
            seed=1000,
            output_type="pt",
            progress=False,
            **(usual | options),
        )
        images: torch.Tensor = result.images  # type: ignore[assignment]
        return images

    ways = ((FULL, {}), *FAST)
    pictures = {way: make(options) for way, options in ways}
    calls: dict[str, Callable[[], object]] = {way: functools.partial(make, options) for way, options in ways}
    timings = interleaved(
        calls,
        pipeline.device.type,
        Effort.of_long_calls(min(settings.samples, 3), settings.seconds),
        wall=True,
    )
    count = len(PROMPTS) * each
    for way, timing in timings.items():
        seconds = {n: v / count for n, v in timed(timing).items() if n != "samples" and v is not None}
        difference = "" if way == FULL else f"PSNR {psnr(pictures[way], pictures[FULL]):.1f} dB"
        yield Measurement(
            "quality",
            name,
            f"{count} pictures, seconds a picture",
            way,
            **seconds,  # type: ignore[arg-type]
            samples=timing.samples,
            speedup=timings[FULL].median / timing.median,
            note=difference,
        )
