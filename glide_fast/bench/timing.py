"""Times of several calls, taken in turns: what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

Call = Callable[[], object]

QUEUE = 32
"""Calls of one sample on a GPU at most."""
QUEUE_SECONDS = 3.6e-3
"""What launching a sample may take Python: 900 launches of 4 us, a stream queues about a thousand, then makes it wait."""

COLD_CALLS = 8
"""Calls of one sample with a cold cache at most: the cache is emptied before each."""
WARM_SECONDS = 1.0
"""A call that took so long is warm."""


class Timing(NamedTuple):
    """Microseconds of one call, over the samples of a run."""

    median: float
    lower: float  # quartiles
    upper: float
    best: float
    samples: int
    from_python: float | None = None
    """On a GPU: the median where Python launches each call and nothing is queued before."""
    cold: float | None = None
    """On a GPU: the median where the L2 cache holds nothing of the call's tensors; the others are with a warm cache."""
    late: float = 0.0
    """On a GPU: the median time for which the device went on after the stream that was timed had ended."""


class Effort(NamedTuple):
    """How much to measure."""

    warm: int  # calls before any is timed, fewer where they take seconds
    samples: int  # of each contestant
    sample_seconds: float  # the least time that one takes
    seconds: float = math.inf  # rounds end after this time,
    least: int = 5  # but not before so many
    cold: bool = False  # on a GPU, also time calls whose tensors are in no cache

    @classmethod
    def of_long_calls(cls, samples: int, seconds: float) -> Effort:
        """For calls that are long (loops, pictures) and warm already: each is a sample."""
        return cls(warm=0, samples=samples, sample_seconds=0.0, seconds=seconds, least=1)


FULL = Effort(warm=5, samples=31, sample_seconds=2e-3, seconds=8, cold=True)
QUICK = Effort(warm=2, samples=5, sample_seconds=2e-4, seconds=2, least=3, cold=True)


def summarise(seconds: Sequence[float]) -> Timing:
    """Median, quartiles and best of samples in seconds."""
    ordered = sorted(value * 1e6 for value in seconds)
    lower, median, upper = statistics.quantiles(
        ordered * 2 if len(ordered) == 1 else ordered, n=4, method="inclusive"
    )
    return Timing(median, lower, upper, ordered[0], len(ordered))


def on_host(call: Call, repeats: int, device: str = "cpu") -> float:
    """Wall-clock seconds of a call, over ``repeats`` of them; a GPU has ended its work by then."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


class OnDevice(NamedTuple):
    """Seconds of a call, and for how long the device went on after the stream had ended."""

    seconds: float
    late: float


def on_device(call: Call, repeats: int, spin: int = 0) -> OnDevice:
    """Time a call by events on the stream.

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
    ended = time.perf_counter()
    torch.cuda.synchronize()
    return OnDevice(float(begin.elapsed_time(end)) / 1e3 / repeats, time.perf_counter() - ended)


def on_device_cold(call: Call, repeats: int, spin: int, empty_cache: Call) -> float:
    """Median seconds of a call by events around each, with ``empty_cache`` before it."""
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeats)]
    torch.cuda.synchronize()
    torch.cuda._sleep(spin)
    for begin, end in events:
        empty_cache()
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(float(begin.elapsed_time(end)) for begin, end in events) / 1e3


@functools.cache
def _emptier() -> Call:
    """Writes to more memory than the current device's L2 cache holds."""
    size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    memory = torch.empty(max(2 * size, 1 << 20), dtype=torch.uint8, device="cuda")
    return memory.zero_


@functools.cache
def cycles_a_second() -> float:
    """The rate at which ``torch.cuda._sleep`` counts."""
    cycles = 20_000_000
    on_device(lambda: torch.cuda._sleep(cycles), 1)
    return cycles / on_device(lambda: torch.cuda._sleep(cycles), 1).seconds


def warm_up(call: Call, times: int, device: str) -> None:
    """Make a call ``times`` times, or until :data:`WARM_SECONDS` have passed."""
    start = time.monotonic()
    for _ in range(times):
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if time.monotonic() - start > WARM_SECONDS:
            return


class _Wall:
    """Samples of a call by the wall clock."""

    def __init__(self, call: Call, effort: Effort, device: str) -> None:
        self.call, self.device, self.repeats = call, device, 1
        if effort.sample_seconds:
            self.repeats = max(1, math.ceil(effort.sample_seconds / max(on_host(call, 1, device), 1e-7)))
        self.seconds: list[float] = []

    def sample(self) -> None:
        self.seconds.append(on_host(self.call, self.repeats, self.device))

    def timing(self) -> Timing:
        return summarise(self.seconds)


class _Device:
    """Samples of a call on a GPU: queued, with a cold cache, and as Python launches it."""

    def __init__(self, call: Call, effort: Effort, device: str) -> None:
        self.call = call
        wanted = math.ceil(effort.sample_seconds / max(on_device(call, 1).seconds, 1e-7))
        torch.cuda.synchronize()
        launching = max(on_host(call, 3), 1e-7)
        self.repeats = max(1, min(wanted, QUEUE, int(QUEUE_SECONDS / launching)))
        self.spin = int((1.5 * launching * self.repeats + 1e-4) * cycles_a_second())
        self.empty_cache = _emptier() if effort.cold else None
        self.taken: list[OnDevice] = []
        self.launched: list[float] = []
        self.cold: list[float] = []

    def sample(self) -> None:
        self.taken.append(on_device(self.call, self.repeats, self.spin))
        if len(self.taken) % 4 == 1:
            self.launched.append(on_device(self.call, self.repeats).seconds)
        if self.empty_cache is not None:
            self.cold.append(
                on_device_cold(self.call, min(self.repeats, COLD_CALLS), self.spin, self.empty_cache)
            )

    def timing(self) -> Timing:
        found = summarise([one.seconds for one in self.taken])
        return found._replace(
            from_python=statistics.median(self.launched) * 1e6,
            cold=statistics.median(self.cold) * 1e6 if self.cold else None,
            late=statistics.median(one.late for one in self.taken) * 1e6,
        )


def interleaved(
    calls: Mapping[str, Call], device: str, effort: Effort, *, wall: bool = False
) -> dict[str, Timing]:
    """Time each call; ``device`` is "cpu" (wall clock) or "cuda" (events on the stream, or with ``wall`` the wall clock).

    Every round takes one sample of each contestant, in an order that is drawn anew. A sample repeats its call until it is
    long enough for the clock.
    """
    clock = _Device if device == "cuda" and not wall else _Wall
    clocks: dict[str, _Device | _Wall] = {}
    for name, call in calls.items():
        warm_up(call, effort.warm, device)
        clocks[name] = clock(call, effort, device)
    order, draw, start = list(clocks), random.Random(0), time.monotonic()
    for taken in range(effort.samples):
        if taken >= effort.least and time.monotonic() - start > effort.seconds:
            break
        draw.shuffle(order)
        for name in order:
            clocks[name].sample()
    return {name: clock.timing() for name, clock in clocks.items()}
