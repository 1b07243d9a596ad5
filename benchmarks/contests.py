"""Contests of single ops: a call that GLIDE's models make, each of our backends on it, and what there is without glide_fast.

The calls are those of the op's ``cases.py``; a suite (``suites/<op>.py``) adds only who else can make them.
"""

from __future__ import annotations

import contextvars
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch

from benchmarks.contestants import Description, peers
from glide_fast import ops as public
from glide_fast.bench.calls import WRITTEN, results, widened
from glide_fast.bench.contest import OURS, PLAIN, Competitor, Contest
from glide_fast.bench.cost import cost
from glide_fast.bench.measurement import short_name, table
from glide_fast.bench.record import Table
from glide_fast.bench.timing import Effort
from glide_fast.errors import BackendError
from glide_fast.ops.backends import Choice, force, listen, ops
from glide_fast.ops.case import Case, activation_dtype, allowed_error, cases_of
from glide_fast.ops.described import first_tensor

Arguments = dict[str, Any]
SUMS = 1e-6
"""Relative error that is always allowed in fp32: two libraries' orders of the same sum differ by it."""
COMPILED = "torch.compile of plain torch"
PARAMETERS = ("weight", "bias", "x_bias", "table")
"""Arguments that are the same for every call of a layer."""


class Baseline(NamedTuple):
    """What there is without glide_fast.

    Attributes:
        run: makes the call with what ``prepare`` gave; returns its results, in the op's order.
        prepare: what can be done before any call, such as converting weights: arguments by name.
    """

    run: Callable[[Arguments], Iterable[torch.Tensor]]
    prepare: Callable[[Arguments], Arguments] = dict


class Size(NamedTuple):
    """A case of an op at one batch size."""

    case: Case
    batch: int
    dtype: torch.dtype
    device: str
    small: bool = False

    @property
    def work(self) -> str:
        """What is measured, in one line."""
        small = ", small" if self.small else ""
        return f"{self.case.op} {self.batch} x {self.case.name}, {short_name(self.dtype)}{small}"

    def arguments(self, seed: int = 0) -> Arguments:
        """Of the public function."""
        return self.case.arguments(self.batch, self.dtype, self.device, seed, small=self.small)


def cases_on(op: str, device: str) -> list[Case]:
    """The cases that the runtime makes on a device; none of an op that it uses on others only."""
    return [case for case in cases_of(op).CASES if device in case.devices]


def sizes(op: str, device: str, *, quick: bool = False, small: bool = False) -> Iterator[Size]:
    """Every case that the runtime makes on the device, at its first batch, then at larger ones; ``quick``: one of each model.

    ``small``: at the first batch only, and as small as the case can be; of an op that the runtime does not use there, all cases.
    """
    every = cases_on(op, device) or (list(cases_of(op).CASES) if small else [])
    if quick:
        every = list({case.model: case for case in reversed(every)}.values())[::-1]
    for turn in range(1 if quick or small else max((len(case.batches) for case in every), default=0)):
        for case in every:
            if turn < len(case.batches):
                yield Size(case, case.batches[turn], activation_dtype(device), device, small)


def reference_alone(op: str) -> Any:
    """In place of a suite where backends are only compared with fp64: they may err twice as much as the op's reference does."""

    def run(a: Arguments) -> Any:
        with force(**{op: "reference"}):
            return getattr(public, op)(**a)

    return SimpleNamespace(BASELINES={"reference": Baseline(run)})


def names(suite: ModuleType, size: Size, compiled: bool) -> set[str]:
    """All who have a row in a contest of this size, whether they can run or not, but the copy."""
    ours = {f"{OURS} {backend}" for backend in ops()[size.case.op].names if backend != "reference"}
    others = {peer.name for peer in peers(getattr(suite, "DESCRIPTION", None))}
    return {*suite.BASELINES, *ours, *others, *({COMPILED} if compiled else ())}


def contest(suite: ModuleType, size: Size, compiled: bool = False) -> Contest:
    """The contest of one size; its tensors are drawn here."""
    op, arguments = size.case.op, size.arguments()
    function, record = getattr(public, op), cases_of(op)
    prepared: dict[str, Arguments] = {}
    laid_out: dict[str, Arguments] = {}
    choices: list[Choice] = []
    with torch.inference_mode(), listen(choices.append), force(**{op: "reference"}):
        function(**arguments)
    dtype = first_tensor(choices[0]).dtype

    def own(backend: str) -> Arguments:
        """The arguments as a backend holds them, such as a packed weight, with memory of its own for the results."""
        held = record.prepared(arguments, backend) if hasattr(record, "prepared") else arguments
        return {name: copied(value) if name in WRITTEN else value for name, value in held.items()}

    def redraw(number: int) -> None:
        refill(arguments, size.arguments(number), but=PARAMETERS)
        for name, held in prepared.items():
            refill(held, suite.BASELINES[name].prepare(arguments))
        for backend, held in laid_out.items():
            refill(held, own(backend), but=PARAMETERS)

    def truth() -> list[torch.Tensor]:
        with force(**{op: "reference"}):
            return results(function(**widened(arguments)))

    def allowed(dtype: torch.dtype, errors: Any) -> float:
        floor = max(record.FLOOR, SUMS if dtype == torch.float32 else 0.0)
        return allowed_error(max(errors.get(name, 0.0) for name in suite.BASELINES), dtype, floor)

    made = Contest(
        "ops",
        size.case.model,
        size.work,
        size.device,
        truth,
        allowed,
        inputs=[v for name, v in arguments.items() if isinstance(v, torch.Tensor) and name not in WRITTEN],
        redraw=redraw,
        cost=cost(choices[0]),
        copy=True,
    )

    def ready(run: Callable[[Arguments], Any], held: Arguments) -> Competitor:
        def call() -> list[torch.Tensor]:
            return results(run(held))

        return Competitor(call, None, dtype)

    def of_backend(backend: str) -> Competitor:
        # Forced once and not at every call: that would be timed, too.
        with force(**{op: backend}):
            context = contextvars.copy_context()
        held = laid_out[backend] = own(backend)
        return ready(lambda given: context.run(function, **given), held)

    def of_baseline(name: str) -> Competitor:
        prepared[name] = suite.BASELINES[name].prepare(arguments)
        return ready(suite.BASELINES[name].run, prepared[name])

    for name in suite.BASELINES:
        made.enter(name, functools.partial(of_baseline, name))
    for backend in ops()[op].names:
        if backend != "reference":
            make = functools.partial(of_backend, backend)
            made.enter(f"{OURS} {backend}", make, (BackendError,))
    describe: Callable[[Arguments], Description] | None = getattr(suite, "describe", None)
    if describe is not None:
        for peer in peers(suite.DESCRIPTION):

            def of_peer(prepare: Callable[[Any], Callable[[], Any]] = peer.prepare) -> Competitor:
                return Competitor(prepare(describe(prepared[PLAIN])), None, dtype)

            made.enter(peer.name, of_peer, (Exception,), guest=True)
    if compiled:
        run = torch.compile(suite.BASELINES[PLAIN].run, dynamic=False)
        # A compiler may raise anything.
        made.enter(COMPILED, lambda: ready(run, prepared[PLAIN]), (Exception,))
    return made


def copied(value: Any) -> Any:
    """A tensor, or a record of tensors, in memory of its own."""
    if isinstance(value, tuple):
        return type(value)(*map(copied, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def refill(held: Arguments, new: Arguments, but: Iterable[str] = ()) -> None:
    """Write new values into the tensors that contestants hold."""
    for name, value in held.items():
        other = new[name]
        if isinstance(value, torch.Tensor) and name not in but and other is not value:
            value.copy_(other)


class Done(NamedTuple):
    """What became of a suite."""

    measured: int
    kept: int  # contests that the file had already
    red: tuple[str, ...]  # "work: contestant" of what is wrong
    unfinished: bool  # the time was up before the last contest
    ran: int = 0  # results of our backends that were compared


def run_suite(
    suite: ModuleType,
    chosen: Iterable[Size],
    effort: Effort | None,
    rows: Table | None = None,
    *,
    compiled: bool = False,
    shapes: str = "",
    again: bool = False,
    until: float = float("inf"),
) -> Done:
    """Run the contests of these sizes and print them, and add their rows to a table, which has earlier ones.

    Args:
        effort: how often to repeat; None compares results and times nothing.
        shapes: a regular expression; only sizes are measured whose model and work have it.
        again: measure what the table has, too.
        until: in ``time.monotonic()``; no contest is begun after it.
    """
    measured = kept = ran = 0
    red: list[str] = []
    for size in chosen:
        title = f"{size.case.model} {size.work}"
        if not re.search(shapes, title):
            continue
        have = (
            [r for r in rows.rows if (r["model"], r["work"]) == (size.case.model, size.work)] if rows else []
        )
        if not again and {row["contestant"] for row in have} >= names(suite, size, compiled):
            kept += 1
            guests = {peer.name for peer in peers(getattr(suite, "DESCRIPTION", None))}
            red += [
                f"{title}: {row['contestant']}"
                for row in have
                if row["gate"] == "red" and row["contestant"] not in guests
            ]
            continue
        if time.monotonic() > until:
            return Done(measured, kept, tuple(red), True, ran)
        found = contest(suite, size, compiled).run(effort)
        print(table(found), flush=True)
        red += [f"{title}: {row.contestant}" for row in found if row.failed]
        measured += 1
        ran += sum(row.error is not None and row.contestant.startswith(OURS) for row in found)
        if rows is not None:
            rows.add(*(row.row() for row in found))
        if compiled:
            torch.compiler.reset()
    return Done(measured, kept, tuple(red), False, ran)
