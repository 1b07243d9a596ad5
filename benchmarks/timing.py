"""Times of several calls, taken in turns: what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Call = Callable[[], object]


class Timing(NamedTuple):
    """Microseconds of one call, over the samples of a run."""

    median: float
    lower: float  # quartiles
    upper: float
    best: float
    samples: int


class Effort(NamedTuple):
    """How much to measure: warm-up calls, samples of each contestant, and the least time a sample takes."""

    warm: int
    samples: int
    sample_seconds: float


FULL = Effort(warm=5, samples=31, sample_seconds=2e-3)
QUICK = Effort(warm=2, samples=5, sample_seconds=2e-4)


def summarise(seconds: list[float]) -> Timing:
    """Median, quartiles and best of samples in seconds."""
    ordered = sorted(value * 1e6 for value in seconds)
    lower, median, upper = statistics.quantiles(ordered, n=4, method="inclusive")
    return Timing(median, lower, upper, ordered[0], len(ordered))


def _on_host(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _on_device(call: Call, repeats: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def interleaved(calls: Mapping[str, Call], device: str, effort: Effort) -> dict[str, Timing]:
    """Time each call; ``device`` is "cpu" (wall clock) or "cuda" (events on the stream).

    Every round takes one sample of each contestant, in an order that is drawn anew. A sample repeats its call until it is
    long enough for the clock.
    """
    measure = _on_device if device == "cuda" else _on_host
    repeats = {}
    for name, call in calls.items():
        for _ in range(effort.warm):
            call()
        repeats[name] = max(1, math.ceil(effort.sample_seconds / max(measure(call, 1), 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    for _ in range(effort.samples):
        draw.shuffle(order)
        for name in order:
            seconds[name].append(measure(calls[name], repeats[name]))
    return {name: summarise(samples) for name, samples in seconds.items()}
