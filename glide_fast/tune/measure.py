"""The candidates of one call: every plan of every backend that takes it, compared with fp64 and timed in turns.

All are built and called before any is timed. The first round is short; the best of it, and what the rules would choose, are timed
again for longer, and compared again with other inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from glide_fast.bench.calls import WRITTEN, elsewhere, results, widened
from glide_fast.bench.contest import PLAIN, Competitor, Contest, Unable
from glide_fast.bench.measurement import Measurement, short_name
from glide_fast.bench.timing import Effort
from glide_fast.ops.backends import Backend, Op, Plan, named
from glide_fast.ops.case import allowed_error, cases_of
from glide_fast.ops.convolution import winograd_weight
from glide_fast.plans.file import Candidate, Row, with_plan
from glide_fast.plans.signature import PACKED, signature
from glide_fast.plans.sources import source_of
from glide_fast.runtime.recording import CudaGraphs
from glide_fast.tune.recipe import arguments_from
from glide_fast.tune.tasks import Task, checked

REFERENCE = "reference"
SUMS = 1e-6
"""Relative error that is always allowed in fp32: two libraries' orders of the same sum differ by it."""
NOTHING = "there is nothing to choose"
"""Why there is no row of a call that one candidate alone takes."""
FINALISTS = 3
NEAR = 1.02
"""Times that differ by less are one time: the rules' choice is then kept, else the candidate that comes first."""
PARAMETERS = ("weight", "weights", "bias", "x_bias", "table", "known_mask", *WRITTEN)
"""Arguments that other inputs leave as they are."""
GRAPH_SECONDS = 3e-4
MOST_IN_GRAPH = 20


class Efforts(NamedTuple):
    """How often to repeat in the first round, and in the second."""

    first: Effort
    second: Effort


EFFORTS = {
    "cuda": Efforts(
        Effort(warm=1, samples=2, sample_seconds=3e-4, seconds=0.5, least=2),
        Effort(warm=1, samples=9, sample_seconds=1e-3, seconds=1.0, least=3),
    ),
    "cpu": Efforts(
        Effort(warm=1, samples=3, sample_seconds=2e-3, seconds=1.0, least=1),
        Effort(warm=1, samples=11, sample_seconds=5e-3, seconds=3.0, least=3),
    ),
}


@dataclass
class Entrant:
    """A backend with a plan, ready to run the call.

    Attributes:
        by_rule: what the op would choose for the call without any measurement.
        eligible: its row could be used; a reference that only the others are compared with is not.
    """

    name: str
    backend: Backend[Any]
    plan: Plan | None
    call: Any
    by_rule: bool
    eligible: bool

    def run(self) -> Any:
        """The result of the call."""
        return (
            self.backend.run(self.call) if self.plan is None else self.backend.run(self.call, plan=self.plan)
        )


class Verdict(NamedTuple):
    """What came of a task: its row, or why there is none; and by what time the row is faster than the rules' choice."""

    row: Row | None
    why_not: str = ""
    by_rule_us: float | None = None


def held(op: str, arguments: Mapping[str, Any], backend: str) -> Any:
    """The call as a backend holds its operands, with memory of its own for results."""
    record = cases_of(op)
    given = record.prepared(dict(arguments), backend) if hasattr(record, "prepared") else arguments
    return checked(op, {name: elsewhere(v) if name in WRITTEN else v for name, v in given.items()})


def entrants(op: Op[Any], arguments: Mapping[str, Any], line: str) -> Iterator[Entrant]:
    """Every candidate for a call, what the rules would choose first of its backend; the reference last."""
    packed = f" {PACKED}" in line
    rule_found = False
    for name in op.names:
        backend, call = op.backend(name), held(op.name, arguments, name)
        facts = call.facts()
        if backend.supports(facts) is not None:
            continue
        # Winograd's kernel has no rule of its own: the layout of a weight decides, and this decides the layout.
        reason = winograd_weight.why_not_worth() if name == "winograd" else backend.worth(facts)
        by_rule = not rule_found and reason is None
        rule_found = rule_found or by_rule
        eligible = not packed or f" {PACKED}" in signature(call)
        plans = [None] if backend.plans is None else [*backend.plans(call)]
        for number, plan in enumerate(plans or [None]):
            title = PLAIN if name == REFERENCE else f"{name}{with_plan(plan)}"
            yield Entrant(title, backend, plan, call, by_rule and number == 0, eligible)


def sources_of(op: Op[Any], entered: Sequence[Entrant]) -> dict[str, str] | None:
    """The digest of each backend's source; None where one is not known."""
    found = {entrant.backend.name: source_of(op.name, entrant.backend.name) for entrant in entered}
    return {name: text for name, text in found.items() if text} if all(found.values()) else None


def measure(task: Task, device: torch.device, efforts: Efforts | None = None) -> Verdict:
    """Time the candidates of a task.

    Where there is nothing to choose, because one candidate alone takes the call, there is no row.
    """
    op, efforts = named(task.op), efforts or EFFORTS[device.type]
    with torch.inference_mode():
        # To draw large tensors takes longer than to see that there is nothing to choose.
        empty = arguments_from(task.recipe, str(device), zeros=False)
        if sum(entrant.eligible for entrant in entrants(op, empty, task.signature)) < 2:
            return Verdict(None, NOTHING)
        del empty
        arguments = task.arguments()
        entered = list(entrants(op, arguments, task.signature))
        sources = sources_of(op, entered)
        if sources is None:
            return Verdict(None, "a source is not known: build the native library again (pip install -e .)")
        # The reference is right by definition; errors are allowed by its own.
        entered.sort(key=lambda entrant: entrant.name != PLAIN)
        first = {m.contestant: m for m in _round(task, op, arguments, entered, efforts.first, device)}
        timed = sorted(_right(first, entered), key=lambda entrant: first[entrant.name].value or math.inf)
        finalists = [e for e in entered if e in timed[:FINALISTS] or (e in timed and e.by_rule)]
        if not finalists:
            return Verdict(None, "no candidate was right")
        names = {entrant.name for entrant in finalists} | {PLAIN}
        last = [entrant for entrant in entered if entrant.name in names]
        second = {m.contestant: m for m in _round(task, op, arguments, last, efforts.second, device, True)}
        found = _right(second, finalists)
    return _verdict(task, found, second, sources, len(entered), arguments)


def _right(measured: Mapping[str, Measurement], entered: Sequence[Entrant]) -> list[Entrant]:
    """The eligible candidates that passed the gate and have a time."""
    return [
        entrant
        for entrant in entered
        if entrant.eligible
        and entrant.name in measured
        and measured[entrant.name].value
        and measured[entrant.name].gate != "red"
    ]


def _verdict(
    task: Task,
    found: Sequence[Entrant],
    measured: Mapping[str, Measurement],
    sources: Mapping[str, str],
    compared: int,
    arguments: Mapping[str, Any],
) -> Verdict:
    if not found:
        return Verdict(None, "no candidate was right with other inputs")
    us = {entrant.name: 1e6 * float(measured[entrant.name].value or math.inf) for entrant in found}
    best = min(us.values())
    fastest = next(entrant for entrant in found if us[entrant.name] <= NEAR * best)
    by_rule = next((entrant for entrant in found if entrant.by_rule), None)
    if by_rule is not None and not _surely_faster(measured[fastest.name], measured[by_rule.name]):
        fastest = by_rule  # noise must not change what runs
    others = sorted((e for e in found if e is not fastest), key=lambda e: us[e.name])
    candidates = [Candidate(e.backend.name, e.plan, us[e.name]) for e in (fastest, *others[:1])]
    dtype = next(value.dtype for value in arguments.values() if isinstance(value, torch.Tensor))
    row = Row(
        task.op,
        task.signature,
        short_name(dtype),
        candidates[0],
        candidates[1] if len(candidates) > 1 else None,
        float(measured[fastest.name].error or 0.0),
        sources,
        compared,
    )
    return Verdict(row, by_rule_us=None if by_rule is None else us[by_rule.name])


def _surely_faster(one: Measurement, other: Measurement) -> bool:
    """Whether the middle halves of the samples of both are apart, by more than :data:`NEAR`."""
    if one.upper is None or other.lower is None or not one.value or not other.value:
        return False
    return one.upper < other.lower and NEAR * one.value < other.value


def _round(
    task: Task,
    op: Op[Any],
    arguments: Mapping[str, Any],
    entered: Sequence[Entrant],
    effort: Effort,
    device: torch.device,
    again: bool = False,
) -> list[Measurement]:
    """Time some candidates; with ``again`` compare them once more with other inputs afterwards."""
    floor, dtype = cases_of(task.op).FLOOR, entered[0].call.tensors[0].dtype
    floor = max(floor, SUMS if dtype == torch.float32 else 0.0)
    repeats = 1
    if device.type == "cuda":
        repeats = max(1, min(MOST_IN_GRAPH, math.ceil(GRAPH_SECONDS / task.seconds("cuda"))))
    inputs = {
        name: value
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and name not in WRITTEN and type(value) is torch.Tensor
    }
    contest = Contest(
        "tune",
        "",
        task.title,
        device.type,
        truth=lambda: results(op.backend(REFERENCE).run(widened(entered[0].call))),
        allowed=lambda dtype, errors: allowed_error(errors.get(PLAIN, 0.0), dtype, floor),
        inputs=list(inputs.values()),
        redraw=_redraw(inputs) if again else None,
    )
    with ExitStack() as ends:

        def ready(entrant: Entrant) -> Competitor:
            if device.type == "cuda":
                return _captured(entrant, device, repeats, dtype, ends)
            return Competitor(entrant.run, lambda: _compared(entrant), dtype)

        for entrant in entered:
            contest.enter(entrant.name, lambda entrant=entrant: ready(entrant), (Unable, *_EXCUSES))  # type: ignore[misc]
        found = contest.run(effort)
    if repeats == 1:
        return found
    return [_divided(measurement, repeats) for measurement in found]


_EXCUSES = (RuntimeError, ValueError)
"""What a candidate may raise that this device cannot run: more shared memory than there is, a plan that does not compile."""


def _divided(measurement: Measurement, repeats: int) -> Measurement:
    value = measurement.value
    if value is None or measurement.lower is None or measurement.upper is None:
        return measurement
    lower, upper = measurement.lower / repeats, measurement.upper / repeats
    return replace(measurement, value=value / repeats, lower=lower, upper=upper)


def _compared(entrant: Entrant) -> list[torch.Tensor]:
    """Results to compare, of a call that has to write every value anew."""
    for one in getattr(entrant.call, "written", ()):
        if one is not None:
            one.fill_(torch.nan)
    return [one.clone() for one in results(entrant.run())]


def _captured(
    entrant: Entrant, device: torch.device, repeats: int, dtype: torch.dtype, ends: ExitStack
) -> Competitor:
    """The call, several times in one CUDA graph; what is compared is what the graph wrote."""
    entrant.run()  # what libraries and kernels set up at a first call cannot be captured
    kept: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(repeats):
            kept[:] = results(entrant.run())

    graph = CudaGraphs(device).record(work)
    ends.callback(graph.release)

    def compared() -> list[torch.Tensor]:
        for one in kept:
            one.fill_(torch.nan)
        graph.replay()
        return [one.clone() for one in kept]

    return Competitor(graph.replay, compared, dtype)


def _redraw(inputs: Mapping[str, torch.Tensor]) -> Callable[[int], None]:
    """A function that gives the inputs other values of the same mean and spread, or with 0 their first ones back."""
    changing = {
        name: tensor
        for name, tensor in inputs.items()
        if name not in PARAMETERS and tensor.is_floating_point()
    }
    first = {name: tensor.clone() for name, tensor in changing.items()}

    def redraw(number: int) -> None:
        for name, tensor in changing.items():
            if not number:
                tensor.copy_(first[name])
                continue
            mean, spread = first[name].float().mean(), first[name].float().std(correction=0)
            tensor.copy_(torch.randn(tensor.shape, dtype=torch.float32, device=tensor.device) * spread + mean)

    return redraw
