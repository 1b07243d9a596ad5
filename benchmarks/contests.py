"""Contests of single ops: for a call that GLIDE's models make, each backend of glide_fast against the alternatives to it.

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
"""Relative error that is always allowed in fp32: so much can two sums differ that are taken in different orders."""
COMPILED = "torch.compile of plain torch"
PARAMETERS = ("weight", "bias", "x_bias", "table")
"""Arguments that are the same for every call of a layer."""


class Baseline(NamedTuple):
    """A way to make the call without glide_fast.

    Attributes:
        run: makes the call with the arguments that ``prepare`` returned; returns its results, in the op's order.
        prepare: does the work that can be done once, before all calls, such as converting weights; takes and returns arguments
            by name.
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
        """The op, batch, case and type in one line."""
        small = ", small" if self.small else ""
        return f"{self.case.op} {self.batch} x {self.case.name}, {short_name(self.dtype)}{small}"

    def arguments(self, seed: int = 0) -> Arguments:
        """The arguments of the op's public function, by name."""
        return self.case.arguments(self.batch, self.dtype, self.device, seed, small=self.small)


def cases_on(op: str, device: str) -> list[Case]:
    """The cases that the runtime makes on a device; none of an op that it uses on others only."""
    return [case for case in cases_of(op).CASES if device in case.devices]


def sizes(op: str, device: str, *, quick: bool = False, small: bool = False) -> Iterator[Size]:
    """Every case that the runtime makes on the device: first all at their first batch, then at larger ones.

    Args:
        quick: one case of each model, at its first batch.
        small: the small form of each case, at its first batch; of an op that the runtime does not use there, of all cases.
    """
    every = cases_on(op, device) or (list(cases_of(op).CASES) if small else [])
    if quick:
        every = list({case.model: case for case in reversed(every)}.values())[::-1]
    for turn in range(1 if quick or small else max((len(case.batches) for case in every), default=0)):
        for case in every:
            if turn < len(case.batches):
                yield Size(case, case.batches[turn], activation_dtype(device), device, small)


def reference_alone(op: str) -> Any:
    """A suite for comparing backends with fp64: its one baseline is the op's reference, and backends may err twice as much."""

    def run(a: Arguments) -> Any:
        with force(**{op: "reference"}):
            return getattr(public, op)(**a)

    return SimpleNamespace(BASELINES={"reference": Baseline(run)})


def names(suite: ModuleType, size: Size, compiled: bool) -> set[str]:
    """The contestants that have a row in a contest of this size, whether they can run or not; without the copy."""
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
        """The arguments prepared for a backend (such as a packed weight), with separate memory for its results."""
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

    result = Contest(
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
        # The backend is forced once, not at every call, where it would be timed, too.
        with force(**{op: backend}):
            context = contextvars.copy_context()
        held = laid_out[backend] = own(backend)
        return ready(lambda arguments: context.run(function, **arguments), held)

    def of_baseline(name: str) -> Competitor:
        prepared[name] = suite.BASELINES[name].prepare(arguments)
        return ready(suite.BASELINES[name].run, prepared[name])

    for name in suite.BASELINES:
        result.enter(name, functools.partial(of_baseline, name))
    for backend in ops()[op].names:
        if backend != "reference":
            make = functools.partial(of_backend, backend)
            result.enter(f"{OURS} {backend}", make, (BackendError,))
    describe: Callable[[Arguments], Description] | None = getattr(suite, "describe", None)
    if describe is not None:
        for peer in peers(suite.DESCRIPTION):

            def of_peer(prepare: Callable[[Any], Callable[[], Any]] = peer.prepare) -> Competitor:
                return Competitor(prepare(describe(prepared[PLAIN])), None, dtype)

            result.enter(peer.name, of_peer, (Exception,), guest=True)
    if compiled:
        run = torch.compile(suite.BASELINES[PLAIN].run, dynamic=False)
        # A compiler may raise anything.
        result.enter(COMPILED, lambda: ready(run, prepared[PLAIN]), (Exception,))
    return result


def copied(value: Any) -> Any:
    """A copy of a tensor, or of a record of tensors, in the same memory layout."""
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
    """The outcome of a suite."""

    measured: int
    kept: int  # contests whose rows the file had already
    red: tuple[str, ...]  # "work: contestant" for each wrong result
    unfinished: bool  # the time was up before the last contest
    ran: int = 0  # how many results of glide_fast's backends were compared


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
    """Run the contests of these sizes, print them, and add their rows to a table.

    Args:
        effort: how often to repeat; None compares results and times nothing.
        rows: the table; contests whose rows it has already are not run.
        compiled: enter the reference under ``torch.compile``, too.
        shapes: a regular expression; only sizes are measured in whose model and work it is found.
        again: run the contests whose rows the table has already, too.
        until: a time by ``time.monotonic()`` after which no contest is begun.
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
