"""The recording of some steps by torch's profiler: how long each marked call took, on the host and on the device.

A kernel belongs to the call that launched it. The profiler's trace has each launch (a call of CUDA's runtime or driver by a
thread of the host) and each kernel, copy and fill of the device; a launch and its kernel have the same correlation number. So a
kernel belongs to the mark that was open on the launching thread at the time of the launch. Names of kernels and the times at
which they ran are not used, and torch, Triton and glide_fast's libraries are treated alike.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

PREFIX = "glide_fast::"
"""The beginning of every mark's name."""
STEP = f"{PREFIX}step"
"""The mark around a step."""
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_US = 1e-6

Event = Mapping[str, Any]


class Kernel(NamedTuple):
    """All kernels of one name that the device ran in a step."""

    name: str
    launches: int
    seconds: float


class Elsewhere(NamedTuple):
    """Kernels, copies and fills that threads without a mark launched in a step."""

    launches: int
    seconds: float


NOTHING_ELSEWHERE = Elsewhere(0, 0.0)


@dataclass(frozen=True)
class Trace:
    """Seconds in a step, each the median over the recorded steps.

    Attributes:
        host: for each mark, the time of its calls on the host; the time of a mark inside another counts for both.
        device: for each mark, the device's time for all that was launched inside it, but not inside a mark within it;
            :data:`STEP` has all that was launched in a step. Kernels that ran at the same time count in full.
        kernels: of the device, longest first.
        unlaunched: the device's time in a step for kernels whose launch is not in the trace; it is part of the step's time.
        elsewhere: kernels launched during a step by threads without a mark; not part of the step's time, nor of ``kernels``.
    """

    host: Mapping[str, float]
    device: Mapping[str, float]
    kernels: tuple[Kernel, ...]
    unlaunched: float
    elsewhere: Elsewhere

    @classmethod
    def of(cls, profiler: torch.profiler.profile) -> Trace:
        """The trace of a profiler that has stopped. (A profiler can write its trace only once.)"""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(file))
            return cls.read(file)

    @classmethod
    def read(cls, file: Path) -> Trace:
        """The trace in a file that torch's profiler wrote."""
        return cls.parse(json.loads(file.read_text(encoding="utf-8", errors="replace"))["traceEvents"])

    @classmethod
    def parse(cls, events: Iterable[Event]) -> Trace:
        """The trace of these events, in any order."""
        timed = sorted((event for event in events if event.get("ph") == "X"), key=lambda event: event["ts"])
        marks = [e for e in timed if e.get("cat") == "user_annotation" and e["name"].startswith(PREFIX)]
        steps = max(1, sum(mark["name"] == STEP for mark in marks))
        launches = [e for e in timed if e.get("cat") in _LAUNCHES and "correlation" in e.get("args", {})]
        work = [e for e in timed if e.get("cat") in _DEVICE]

        host, device = _Sums(steps), _Sums(steps)
        open_marks = _open_marks(marks, launches)
        for mark in marks:
            inside = open_marks[id(mark)]
            if inside.step is not None:
                host.add(mark["name"], inside.step, mark["dur"] * _US)
        launched_in = {launch["args"]["correlation"]: open_marks[id(launch)] for launch in launches}
        of_others = _by_threads_without_marks(marks, launches)
        kernels: dict[str, list[float]] = defaultdict(list)
        unlaunched = 0.0
        elsewhere: list[float] = []
        for ran in work:
            seconds = ran["dur"] * _US
            correlation = ran.get("args", {}).get("correlation")
            inside = launched_in.get(correlation, _UNKNOWN)
            if inside is _UNKNOWN:
                unlaunched += seconds / steps
            elif inside.step is None:
                if correlation in of_others:
                    elsewhere.append(seconds)
                continue
            else:
                device.add(STEP, inside.step, seconds)
                if inside.name != STEP:
                    device.add(inside.name, inside.step, seconds)
            kernels[_named(ran, inside)].append(seconds)
        medians = device.medians()
        medians[STEP] = medians.get(STEP, 0.0) + unlaunched
        found = (Kernel(name, len(all_) // steps, sum(all_) / steps) for name, all_ in kernels.items())
        return cls(
            host.medians(),
            medians,
            tuple(sorted(found, key=lambda k: (-k.seconds, k.name))),
            unlaunched,
            # Rounded up: one launch in all of the steps is not none.
            Elsewhere(-(-len(elsewhere) // steps), sum(elsewhere) / steps),
        )


def _named(ran: Event, inside: _Inside) -> str:
    """A kernel's name; that of a copy or a fill says nothing of who launched it, so the call that did is named as well."""
    name: str = ran["name"]
    if ran["cat"] == "kernel" or inside.name in ("", STEP):
        return name
    return f"{name}, {inside.name.removeprefix(PREFIX)}"


class _Inside(NamedTuple):
    """The innermost mark around a mark or launch, and the number of its step; None outside of any step."""

    name: str
    step: int | None


_UNKNOWN = _Inside("", None)


class _Sums:
    """Seconds of each name in each step."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._sums: dict[str, list[float]] = {}

    def add(self, name: str, step: int, seconds: float) -> None:
        """Add to a name's seconds in a step."""
        self._sums.setdefault(name, [0.0] * self._steps)[step] += seconds

    def medians(self) -> dict[str, float]:
        """For each name the median over the steps."""
        return {name: statistics.median(sums) for name, sums in self._sums.items()}


def _by_threads_without_marks(marks: Sequence[Event], launches: Sequence[Event]) -> set[int]:
    """Correlation numbers of the launches that threads without a mark made while a step was under way on another."""
    marked = {(mark["pid"], mark["tid"]) for mark in marks}
    steps = [(mark["ts"], mark["ts"] + mark["dur"]) for mark in marks if mark["name"] == STEP]
    return {
        launch["args"]["correlation"]
        for launch in launches
        if (launch["pid"], launch["tid"]) not in marked
        and any(begin <= launch["ts"] + launch["dur"] / 2 < end for begin, end in steps)
    }


def _open_marks(marks: Sequence[Event], launches: Sequence[Event]) -> dict[int, _Inside]:
    """The innermost mark around each mark and each launch, by the ``id`` of the event; a mark is inside itself.

    The middle of a launch decides: the clocks of launches and marks may differ by a little. Both lists are sorted by time.
    """
    # By thread: (time, 0 for marks, so that one that begins with a launch contains it, longer marks first, the event).
    threads: dict[Any, list[tuple[float, int, float, Event]]] = defaultdict(list)
    for mark in marks:
        threads[mark["pid"], mark["tid"]].append((mark["ts"], 0, -mark["dur"], mark))
    for launch in launches:
        threads[launch["pid"], launch["tid"]].append((launch["ts"] + launch["dur"] / 2, 1, 0.0, launch))
    steps = {id(mark): number for number, mark in enumerate(mark for mark in marks if mark["name"] == STEP)}
    inside: dict[int, _Inside] = {}
    for thread in threads.values():
        around: list[Event] = []  # the marks that are open, the innermost last
        for when, is_launch, _, event in sorted(thread, key=lambda entry: entry[:3]):
            while around and around[-1]["ts"] + around[-1]["dur"] <= when:
                around.pop()
            if not is_launch:
                around.append(event)
            step = next((steps[id(mark)] for mark in around if id(mark) in steps), None)
            inside[id(event)] = _Inside(around[-1]["name"] if around else "", step)
    return inside
