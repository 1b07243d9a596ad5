"""One shape of one op with all that compete on it, and the gate: no speed-up is told of a wrong result."""

from __future__ import annotations

import contextvars
import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from benchmarks.contestants import Description, Unable, peers
from glide_fast.bench.timing import Call, Effort, Timing, interleaved
from glide_fast.errors import BackendError
from glide_fast.ops.backends import force, ops

PLAIN = "plain torch"
"""The contestant that speed-ups refer to."""
COPY = "copy of the same bytes"
OURS = "glide_fast"

Outputs = Callable[[], Iterable[torch.Tensor]]
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}


class _Entry(NamedTuple):
    """Who wants to compete: ``make`` gives the call, or raises one of ``excuses`` with the reason why it cannot."""

    make: Callable[[], Outputs]
    excuses: type[Exception]


@dataclass
class Case:
    """A shape. ``truth`` (in fp64) and contestants return their outputs in the same order.

    The ``baselines``, :data:`PLAIN` among them, are what there is without glide_fast; others may err twice as much as the
    worst of them. What the ``add_...`` methods enter is tried by :meth:`prepare`: making a case costs its tensors only.
    """

    op: str
    model: str  # base, upsampler, clip text or clip image
    shape: str
    dtype: torch.dtype
    device: str
    truth: Outputs
    baselines: dict[str, Outputs]
    moved_bytes: int  # each operand and result once
    flops: int
    floor: float = 0.0  # error that is allowed whatever theirs is; one rounding of the result at least
    contestants: dict[str, Outputs] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    crashed: dict[str, str] = field(default_factory=dict)  # what one of ours raised that was no refusal
    guests: set[str] = field(
        default_factory=set
    )  # of other packages: their errors are told, and are no fault of ours
    _entered: dict[str, _Entry] = field(default_factory=dict)

    def add_backends(self, call: Outputs) -> None:
        """Let every backend of the op compete that takes this call; others are noted with their reason."""
        for backend in ops()[self.op].names:
            if backend == "reference":
                continue

            self._entered[f"{OURS} {backend}"] = _Entry(
                functools.partial(_forced, self.op, backend, call), BackendError
            )

    def add_compiled(self, name: str, call: Outputs) -> None:
        """Let ``torch.compile(call)`` compete; where it does not compile, the reason is noted."""
        # Whatever a compiler may raise.
        self._entered[name] = _Entry(lambda: torch.compile(call, dynamic=False), Exception)

    def add_peers(self, call: Description) -> None:
        """Let what is installed of other packages compete; what is not, or cannot, is noted with its reason."""
        for peer in peers(call):
            self._entered[peer.name] = _Entry(functools.partial(peer.prepare, call), Exception)
            self.guests.add(peer.name)

    @property
    def names(self) -> set[str]:
        """All that have a row in the results: who competes, and who would."""
        return {*self.baselines, *self.contestants, *self.declined, *self.crashed, *self._entered}

    def prepare(self) -> None:
        """Try those that were entered: each becomes a contestant or is declined."""
        for name, entry in self._entered.items():
            try:
                call = entry.make()
                call()
            except entry.excuses as reason:
                self.declined[name] = said(reason)
            except Exception as crash:  # the others are still to be measured
                self.crashed[name] = f"{type(crash).__name__}: {crash}"
            else:
                self.contestants[name] = call
        self._entered.clear()


class Result(NamedTuple):
    """What one contestant did on a case."""

    contestant: str
    timing: Timing
    error: float | None  # relative L2; None for what computes nothing
    allowed: float | None
    speedup: float | None  # over plain torch; None where the gate is red
    guest: bool = False  # of another package

    @property
    def gate(self) -> str:
        """ "green", "red", or "-" for a ceiling."""
        if self.error is None or self.allowed is None:
            return "-"
        return "green" if self.error <= self.allowed else "red"

    @property
    def failed(self) -> bool:
        """Whether something is wrong here: a guest that errs, as one of 8 bits must, is only refused its speed-up."""
        return self.gate == "red" and not self.guest


def _forced(op: str, backend: str, call: Outputs) -> Outputs:
    """``call`` with a backend forced, once and not at every call: that would be timed, too."""
    with force(**{op: backend}):
        return functools.partial(contextvars.copy_context().run, call)


def said(reason: Exception) -> str:
    """The first line of a refusal, without what its place in the results says already."""
    line = next(iter(str(reason).splitlines()), "")
    if isinstance(reason, BackendError):
        return re.sub(r"^backend '(\w+)' of \w+ is forced but cannot run: \1: ", "", line)
    return line if isinstance(reason, Unable) else f"{type(reason).__name__}: {line}"


def error(got: Iterable[torch.Tensor], truth: Iterable[torch.Tensor]) -> float:
    """The largest relative L2 error among the outputs; infinite for NaN, a wrong shape or a missing output."""
    worst = 0.0
    for a, b in zip(list(got), list(truth), strict=True):
        if a.shape != b.shape:
            return float("inf")
        value = float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))
        worst = max(worst, value if value == value else float("inf"))
    return worst


def copy_call(moved_bytes: int, device: str) -> Call:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.empty(max(1, moved_bytes // 2), dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def allowance(case: Case, errors: dict[str, float]) -> float:
    """The error that the gate lets pass, from those of the case's baselines."""
    # A baseline that is plainly wrong must not excuse the others.
    sane = max(32 * UNIT[case.dtype], case.floor)
    worst = max(errors[name] for name in case.baselines)
    return max(2 * worst if worst <= sane else 0.0, UNIT[case.dtype], case.floor)


def measure(case: Case, effort: Effort) -> list[Result]:
    """Check every contestant, then time all of them and a copy in turns."""
    with torch.inference_mode():
        case.prepare()
        truth = [t.double() for t in case.truth()]
        everyone = case.baselines | case.contestants
        errors = {name: error(call(), truth) for name, call in everyone.items()}
        del truth
        allowed = allowance(case, errors)
        calls: dict[str, Call] = {**everyone, COPY: copy_call(case.moved_bytes, case.device)}
        timings = interleaved(calls, case.device, effort)
    plain = timings[PLAIN].median
    results = []
    for name, timing in timings.items():
        wrong = errors.get(name)
        told = wrong is not None and wrong <= allowed and errors[PLAIN] <= allowed
        results.append(
            Result(
                name,
                timing,
                wrong,
                None if wrong is None else allowed,
                plain / timing.median if told else None,
                name in case.guests,
            )
        )
    return results
