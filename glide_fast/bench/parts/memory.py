"""The peak memory of a process that loads all stages and runs a few steps of each; on a GPU that of the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from glide_fast.bench import contestants, fresh
from glide_fast.bench.measurement import Measurement
from glide_fast.bench.settings import Settings

OFFICIAL = "official style: plain model, all stages loaded"


def measure(settings: Settings) -> Iterator[Measurement]:
    """Peak resident memory on a CPU, peak reserved memory on a GPU, each of a fresh process."""
    with fresh.directories(settings.models) as pipelines:
        for title, name in pipelines:
            official = None
            if "none" not in settings.baselines:
                official = float(fresh.run(name, settings, fast=False)["peak"])
                yield Measurement("memory", title, "peak", OFFICIAL, official, "MiB", samples=1, note="100 %")
            ours = float(fresh.run(name, settings, fast=True)["peak"])
            share = "" if official is None else f"{ours / official:.0%} of it"
            yield Measurement("memory", title, "peak", contestants.OURS, ours, "MiB", samples=1, note=share)
