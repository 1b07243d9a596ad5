"""A contest: several ways to do one piece of work are prepared, checked against the truth, timed in turns, and checked again.

Everything is built, compiled and captured before anything is timed. A wrong result has no speed-up, and a contestant
that only seems to work is wrong: one that returns an earlier call's result, leaves its work to another stream or thread, or
returns the memory of its inputs. So inputs change between checks, results are overwritten with NaN once they have been read, and
a result is copied for the comparison at the moment when the call returns.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from glide_fast.bench.clocks import Clocks, clocks
from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.timing import Call, Effort, interleaved
from glide_fast.errors import BackendError
from glide_fast.ops.case import Cost, relative_error

OURS = "glide_fast"
PLAIN = "plain torch"
COPY = "copy of the same bytes"
Outputs = Callable[[], Iterable[torch.Tensor]]
LATE = 0.2
"""How long the device may go on after the timed stream has ended, as a fraction of the sample's time ..."""
LATE_US = 100.0
"""... or in microseconds, where that is more. Beyond that, the contestant has left work to another stream."""
SURPRISING = 10.0
"""Larger speed-ups are marked, so that somebody looks at them."""


class Unable(Exception):
    """A contestant cannot do this work here; the message says why."""


class Competitor(NamedTuple):
    """A contestant that is ready: ``call`` is timed, and ``outputs`` returns the results to compare (None: ``call`` does)."""

    call: Call
    outputs: Outputs | None = None
    dtype: torch.dtype = torch.float32
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """A contestant that has yet to be prepared.

    Attributes:
        make: builds, compiles or captures; raises one of ``excuses`` with the reason where it cannot.
        guest: whether it is another package: then its errors are recorded in the row but do not fail the run.
    """

    name: str
    make: Callable[[], Competitor]
    excuses: tuple[type[Exception], ...] = (Unable,)
    guest: bool = False


@dataclass
class Contest:
    """One piece of work, and the contestants that do it.

    Attributes:
        part, model, work: see :class:`~glide_fast.bench.measurement.Measurement`.
        device: "cpu" or "cuda".
        truth: returns the right results for the present values of the inputs; None where nothing is compared.
        allowed: returns the largest relative error that a contestant of a type may have, from the errors of all contestants.
        entries: the contestants; speed-ups are relative to the first one that runs.
        inputs: the tensors that contestants read; a result may not be in their memory.
        redraw: writes other values (1) or the first ones (0) into the inputs; None where they cannot change.
        cost: the least that the work moves and computes, overall or by contestant; with it rows have rates.
        copy: whether a copy of as many bytes competes too.
        wall: time by the wall clock on a GPU, too; for loops and pictures, where the time that Python takes counts.
    """

    part: str
    model: str
    work: str
    device: str
    truth: Outputs | None
    allowed: Callable[[torch.dtype, Mapping[str, float]], float] | None
    entries: list[Entry] = field(default_factory=list)
    inputs: Sequence[torch.Tensor] = ()
    redraw: Callable[[int], None] | None = None
    cost: Cost | Callable[[str], Cost] | None = None
    copy: bool = False
    wall: bool = False

    def enter(
        self,
        name: str,
        make: Callable[[], Competitor],
        excuses: tuple[type[Exception], ...] = (Unable,),
        *,
        guest: bool = False,
    ) -> None:
        """Add an entry."""
        self.entries.append(Entry(name, make, excuses, guest))

    @property
    def names(self) -> set[str]:
        """The contestants that will have a row."""
        return {entry.name for entry in self.entries} | ({COPY} if self.copy else set())

    @property
    def guests(self) -> set[str]:
        """The entries of other packages."""
        return {entry.name for entry in self.entries if entry.guest}

    def run(self, effort: Effort | None) -> list[Measurement]:
        """A measurement of each entry, in their order; without ``effort`` results are compared and nothing is timed."""
        with torch.inference_mode():
            judge = _Judge(self)
            ready = judge.prepare()
            calls: dict[str, Call] = {name: one.call for name, one in ready.items()}
            if effort is not None and self.copy and isinstance(self.cost, Cost):
                calls[COPY] = copy_call(self.cost.bytes, self.device)
            timings = interleaved(calls, self.device, effort, wall=self.wall) if effort and calls else {}
            state = clocks(self.device) if timings else Clocks()
            if self.redraw is not None:
                # With other inputs, a contestant that returns a result kept from the timed calls is wrong.
                self.redraw(1)
                judge.check(ready)
                self.redraw(0)
            for name, timing in timings.items():
                if timing.late > max(LATE_US, LATE * timing.median):
                    judge.fault(
                        name, f"the device went on for {timing.late:.0f} us after the stream had ended"
                    )
        base = next((name for name in ready if name in timings), None)
        trusted = base is not None and not judge.wrong(base, ready[base].dtype)
        rows = []
        for name in (*(entry.name for entry in self.entries), *((COPY,) if COPY in timings else ())):
            row = Measurement(
                self.part,
                self.model,
                self.work,
                name,
                fault=judge.faults.get(name, ""),
                guest=name in self.guests,
                note=ready[name].note if name in ready else judge.declined.get(name, ""),
            )
            if name in judge.errors and name in ready:
                row = replace(row, error=judge.errors[name], allowed=judge.allowed(ready[name].dtype))
            if name in timings:
                timing = timings[name]
                row = replace(
                    row,
                    **timed(timing),  # type: ignore[arg-type]
                    cost=self.cost(name) if callable(self.cost) else self.cost,
                    over_copy=timing.median / timings[COPY].median if COPY in timings else None,
                    clocks=state.state,
                    throttled=state.throttled,
                )
                if trusted and name != COPY and row.gate != "red":
                    assert base is not None
                    row = row.with_speedup(timings[base].median / timing.median, SURPRISING)
            rows.append(row)
        return rows


class _Judge:
    """The errors, faults and reasons to decline of the contestants of one contest."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self.errors: dict[str, float] = {}
        self.faults: dict[str, str] = {}
        self.declined: dict[str, str] = {}

    def _crash(self, name: str, error: Exception) -> None:
        self.fault(name, f"CRASHED: {said(error, whole=True)}")

    def fault(self, name: str, reason: str) -> None:
        """Record what a contestant does wrong; only the first fault of each is kept."""
        self.faults.setdefault(name, reason)

    def prepare(self) -> dict[str, Competitor]:
        """Build all contestants and call each once, compared with the truth: nothing is compiled after this."""
        ready: dict[str, Competitor] = {}
        truth = self._truth()
        for entry in self._contest.entries:
            try:
                competitor = entry.make()
                if truth is None:
                    competitor.call()
                else:
                    self.errors[entry.name] = self._error(entry.name, competitor, truth)
            except entry.excuses as reason:
                self.declined[entry.name] = said(reason)
            except Exception as crash:  # the others are still to be measured
                self._crash(entry.name, crash)
            else:
                ready[entry.name] = competitor
        return ready

    def check(self, ready: Mapping[str, Competitor]) -> None:
        """Compare all contestants with the truth for the present inputs; a contestant's largest error counts."""
        truth = self._truth()
        for name, one in ready.items() if truth is not None else ():
            try:
                error = self._error(name, one, truth or [])
            except Exception as crash:
                self._crash(name, crash)
            else:
                self.errors[name] = max(error, self.errors[name])

    def _truth(self) -> list[torch.Tensor] | None:
        found = self._contest.truth
        return None if found is None else [one.double().clone() for one in found()]

    def _error(self, name: str, one: Competitor, truth: list[torch.Tensor]) -> float:
        inputs = self._contest.inputs
        before = [tensor.clone() for tensor in inputs]
        threads = set(threading.enumerate())
        results = list((one.outputs or one.call)())  # type: ignore[call-overload]
        # Copied at once, so that writes by another stream or thread after the call do not count.
        kept = [result.clone() for result in results]
        if any(type(result) is not torch.Tensor for result in results):
            self.fault(name, "a result is not a plain torch.Tensor, which may not have been computed yet")
        if set(threading.enumerate()) - threads:
            self.fault(name, "it returned while a thread that it had started was still running")
        memory = {tensor.untyped_storage().data_ptr() for tensor in inputs if tensor.numel()}
        if any(result.untyped_storage().data_ptr() in memory for result in results if result.numel()):
            self.fault(name, "a result is in the memory of the inputs")
        if not all(torch.equal(old, new) for old, new in zip(before, inputs, strict=True)):
            self.fault(name, "it changes its inputs")
            for old, new in zip(before, inputs, strict=True):
                new.copy_(old)
        else:
            # Otherwise a next call that writes nothing, or another contestant that gets this memory, would seem to be right.
            for result in results:
                if result.is_floating_point() and result.untyped_storage().data_ptr() not in memory:
                    with contextlib.suppress(RuntimeError):  # an expanded tensor
                        result.fill_(torch.nan)
        return relative_error(kept, truth)

    def allowed(self, dtype: torch.dtype) -> float | None:
        """The largest error that a contestant of this type may have; None where errors are not limited."""
        return None if self._contest.allowed is None else self._contest.allowed(dtype, self.errors)

    def wrong(self, name: str, dtype: torch.dtype) -> bool:
        """Whether a contestant has a fault or too large an error."""
        allowed = self.allowed(dtype)
        error = self.errors.get(name, 0.0)
        return name in self.faults or (allowed is not None and not error <= allowed)


def copy_call(moved_bytes: int, device: str) -> Call:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.empty(max(1, moved_bytes // 2), dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def said(reason: Exception, *, whole: bool = False) -> str:
    """An exception's message in one line: the first line, or all with ``whole``; with its type, unless that is Unable or ours."""
    lines = [line.strip() for line in str(reason).strip().splitlines() if line.strip()]
    text = " ".join(lines) if whole else next(iter(lines), "")
    if isinstance(reason, BackendError):
        return re.sub(r"^backend '(\w+)' of \w+ is forced but cannot run: \1: ", "", text)
    return text if isinstance(reason, Unable) else f"{type(reason).__name__}: {text}"
