"""One shape of one op with all that compete on it, and the gate: no speed-up is told of a wrong result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from benchmarks.timing import Call, Effort, Timing, interleaved
from glide_fast.errors import BackendError
from glide_fast.ops.backends import force, ops

PLAIN = "plain torch"
"""The contestant that speed-ups refer to."""
COPY = "copy of the same bytes"

Outputs = Callable[[], Iterable[torch.Tensor]]
UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-53}


@dataclass
class Case:
    """A shape. ``truth`` (in fp64) and contestants return their outputs in the same order.

    The ``baselines``, :data:`PLAIN` among them, are what there is without glide_fast; others may err twice as much as the
    worst of them.
    """

    op: str
    model: str  # base or upsampler
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

    def add_backends(self, call: Outputs) -> None:
        """Let every backend of the op compete that takes this call; others are noted with their reason."""
        for backend in ops()[self.op].names:
            if backend == "reference":
                continue

            def forced(backend: str = backend) -> Iterable[torch.Tensor]:
                with force(**{self.op: backend}):
                    return call()

            try:
                forced()
            except BackendError as reason:
                self.declined[backend] = str(reason)
            else:
                self.contestants[f"glide_fast {backend}"] = forced

    def add_compiled(self, name: str, call: Outputs) -> None:
        """Let ``torch.compile(call)`` compete; where it does not compile, the reason is noted."""
        compiled = torch.compile(call, dynamic=False)
        try:
            compiled()
        except Exception as reason:  # whatever a compiler may raise
            self.declined[name] = (
                f"{type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"
            )
        else:
            self.contestants[name] = compiled


class Result(NamedTuple):
    """What one contestant did on a case."""

    contestant: str
    timing: Timing
    error: float | None  # relative L2; None for what computes nothing
    allowed: float | None
    speedup: float | None  # over plain torch; None where the gate is red

    @property
    def gate(self) -> str:
        """ "green", "red", or "-" for a ceiling."""
        if self.error is None or self.allowed is None:
            return "-"
        return "green" if self.error <= self.allowed else "red"


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


def measure(case: Case, effort: Effort) -> list[Result]:
    """Check every contestant, then time all of them and a copy in turns."""
    with torch.inference_mode():
        truth = [t.double() for t in case.truth()]
        everyone = case.baselines | case.contestants
        errors = {name: error(call(), truth) for name, call in everyone.items()}
        del truth
        # A baseline that is plainly wrong must not excuse the others.
        sane = max(32 * UNIT[case.dtype], case.floor)
        worst = max(value for name, value in errors.items() if name in case.baselines)
        allowed = max(2 * worst if worst <= sane else 0.0, UNIT[case.dtype], case.floor)
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
            )
        )
    return results
