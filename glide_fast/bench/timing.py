"""Times of several calls, taken in turns: what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Call = Callable[[], object]

QUEUE = 32
"""Calls of one sample on a GPU at most."""
QUEUE_SECONDS = 3.6e-3
"""What launching a sample may take Python: 900 launches of 4 us, a stream queues about a thousand, then makes it wait."""


WARM_SECONDS = 1.0
"""A call that took so long is warm."""


class Timing(NamedTuple):
    """Microseconds of one call, over the samples of a run."""

    median: float
    lower: float  # quartiles
    upper: float
    best: float
    samples: int
    from_python: float | None = (
        None  # on a GPU: the median where Python launches each call and nothing is queued before
    )


class Effort(NamedTuple):
    """How much to measure."""

    warm: int  # calls before any is timed, fewer where they take seconds
    samples: int  # of each contestant
    sample_seconds: float  # the least time that one takes
    seconds: float = math.inf  # rounds end after this time,
    least: int = 5  # but not before so many


FULL = Effort(warm=5, samples=31, sample_seconds=2e-3, seconds=8)
QUICK = Effort(warm=2, samples=5, sample_seconds=2e-4, seconds=2, least=3)


def summarise(seconds: list[float], from_python: list[float] | None = None) -> Timing:
    """Median, quartiles and best of samples in seconds."""
    ordered = sorted(value * 1e6 for value in seconds)
    lower, median, upper = statistics.quantiles(ordered, n=4, method="inclusive")
    launched = statistics.median(from_python) * 1e6 if from_python else None
    return Timing(median, lower, upper, ordered[0], len(ordered), launched)


def on_host(call: Call, repeats: int) -> float:
    """Wall-clock seconds of a call, over ``repeats`` of them."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def on_device(call: Call, repeats: int, spin: int = 0) -> float:
    """Seconds of a call by events on the stream.

    With ``spin`` the device waits for so many of its cycles first, so that Python is ahead of it and every launch is
    queued when the first begins: the time is then the device's alone, as inside a captured graph.
    """
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if spin:
        torch.cuda._sleep(spin)
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


@functools.cache
def cycles_a_second() -> float:
    """The rate at which ``torch.cuda._sleep`` counts."""
    cycles = 20_000_000
    on_device(lambda: torch.cuda._sleep(cycles), 1)
    return cycles / on_device(lambda: torch.cuda._sleep(cycles), 1)


def warm_up(call: Call, times: int, device: str) -> None:
    """Make a call ``times`` times, or until :data:`WARM_SECONDS` have passed."""
    start = time.monotonic()
    for _ in range(times):
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if time.monotonic() - start > WARM_SECONDS:
            return


class _Host:
    """Samples of a call on the CPU."""

    def __init__(self, call: Call, effort: Effort) -> None:
        self.call = call
        self.repeats = max(1, math.ceil(effort.sample_seconds / max(on_host(call, 1), 1e-7)))
        self.seconds: list[float] = []

    def sample(self) -> None:
        self.seconds.append(on_host(self.call, self.repeats))

    def timing(self) -> Timing:
        return summarise(self.seconds)


class _Device:
    """Samples of a call on a GPU: queued, and as Python launches it."""

    def __init__(self, call: Call, effort: Effort) -> None:
        self.call = call
        wanted = math.ceil(effort.sample_seconds / max(on_device(call, 1), 1e-7))
        torch.cuda.synchronize()
        launching = max(on_host(call, 3), 1e-7)
        self.repeats = max(1, min(wanted, QUEUE, int(QUEUE_SECONDS / launching)))
        self.spin = int((1.5 * launching * self.repeats + 1e-4) * cycles_a_second())
        self.seconds: list[float] = []
        self.launched: list[float] = []

    def sample(self) -> None:
        self.seconds.append(on_device(self.call, self.repeats, self.spin))
        if len(self.seconds) % 4 == 1:
            self.launched.append(on_device(self.call, self.repeats))

    def timing(self) -> Timing:
        return summarise(self.seconds, self.launched)


def interleaved(calls: Mapping[str, Call], device: str, effort: Effort) -> dict[str, Timing]:
    """Time each call; ``device`` is "cpu" (wall clock) or "cuda" (events on the stream).

    Every round takes one sample of each contestant, in an order that is drawn anew. A sample repeats its call until it is
    long enough for the clock.
    """
    clock = _Device if device == "cuda" else _Host
    clocks = {}
    for name, call in calls.items():
        warm_up(call, effort.warm, device)
        clocks[name] = clock(call, effort)
    order, draw, start = list(clocks), random.Random(0), time.monotonic()
    for taken in range(effort.samples):
        if taken >= effort.least and time.monotonic() - start > effort.seconds:
            break
        draw.shuffle(order)
        for name in order:
            clocks[name].sample()
    return {name: clock.timing() for name, clock in clocks.items()}
