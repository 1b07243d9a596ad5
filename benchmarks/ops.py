"""The op suites, case by case: a run can be stopped, split and taken up again, and each case is in the file once it is done."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import record
from benchmarks.case import Case, Result, measure
from glide_fast.bench.provenance import same_run
from glide_fast.bench.timing import Effort


class Done(NamedTuple):
    """What became of a suite."""

    measured: int
    kept: int  # cases that the file had already
    red: tuple[str, ...]  # "case: contestant" of those that are wrong
    unfinished: bool  # the time was up before the last case


def told(case: Case, results: list[Result]) -> Iterator[str]:
    """A case's results, for people."""
    yield title(case)
    for result in sorted(results, key=lambda r: r.timing.median):
        spread = f"{result.timing.lower:.1f} to {result.timing.upper:.1f}"
        if result.gate == "red":
            speed = f"refused: error {result.error:.2g}, allowed {result.allowed:.2g}"
        else:
            speed = "" if result.speedup is None else f"{result.speedup:.2f}x"
        yield f"  {result.timing.median:12.1f} us ({spread})  {result.contestant:32} {speed}"
    yield from (f"  {name}: {reason}" for name, reason in case.declined.items())
    yield from (f"  {name}: CRASHED: {reason}" for name, reason in case.crashed.items())


def title(case: Case) -> str:
    """A case on one line; what ``--shapes`` is matched with."""
    return " ".join(record.key(case).values())


def run_suite(
    cases: Iterable[Case],
    effort: Effort,
    facts: dict[str, str],
    file: Path | None = None,
    *,
    shapes: str = "",
    again: bool = False,
    until: float = float("inf"),
) -> Done:
    """Measure the cases and print them; with ``file``, keep its rows of this very code and device, and add to them.

    Args:
        shapes: a regular expression; only cases whose title has it are measured.
        again: measure what the file has, too.
        until: in ``time.monotonic()``; no case is begun after it.
    """
    table = [row for row in record.read(file) if same_run(row, facts)] if file else []
    measured = kept = 0
    red: list[str] = []
    for case in cases:
        if not re.search(shapes, title(case)):
            continue
        if file and not again and record.complete(table, case):
            kept += 1
            red += [
                f"{title(case)}: {row['contestant']}"
                for row in record.of_case(table, case)
                if failed(row, case)
            ]
            continue
        if time.monotonic() > until:
            return Done(measured, kept, tuple(red), unfinished=True)
        results = measure(case, effort)
        print("\n".join(told(case, results)), flush=True)
        bad = [*(result.contestant for result in results if result.failed), *case.crashed]
        red += [f"{title(case)}: {name}" for name in bad]
        measured += 1
        if file:
            old = record.of_case(table, case)
            table = [row for row in table if row not in old]
            table += [facts | row for row in record.rows(case, results)]
            record.write(file, table)
        torch.compiler.reset()
    return Done(measured, kept, tuple(red), unfinished=False)


def failed(row: record.Row, case: Case) -> bool:
    """Whether a row tells of a wrong result that is no guest's."""
    return row["gate"] == "red" and row["contestant"] not in case.guests
