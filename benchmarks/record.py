"""Results as rows of a CSV."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.case import COPY, Case, Result
from glide_fast.bench.files import Row, read, write

__all__ = ["CASE", "Row", "complete", "key", "of_case", "read", "rows", "write"]

CASE = ("op", "model", "shape", "dtype")
"""The columns that name a case."""


def key(case: Case) -> Row:
    """The columns that name a case."""
    return {
        "op": case.op,
        "model": case.model,
        "shape": case.shape,
        "dtype": str(case.dtype).removeprefix("torch."),
    }


def rows(case: Case, results: Sequence[Result]) -> list[Row]:
    """One row a contestant, then one for each that declined or crashed."""
    copy = next(result.timing.median for result in results if result.contestant == COPY)
    shared = key(case)
    table = []
    for result in results:
        timing = result.timing
        table.append(
            shared
            | {
                "contestant": result.contestant,
                "gate": result.gate,
                "speedup": "refused"
                if result.gate == "red"
                else ""
                if result.speedup is None
                else f"{result.speedup:.3f}",
                "median_us": f"{timing.median:.2f}",
                "q1_us": f"{timing.lower:.2f}",
                "q3_us": f"{timing.upper:.2f}",
                "best_us": f"{timing.best:.2f}",
                "from_python_us": "" if timing.from_python is None else f"{timing.from_python:.2f}",
                "samples": str(timing.samples),
                "over_copy": f"{timing.median / copy:.3f}",
                "gb_per_s": f"{case.moved_bytes / timing.median / 1e3:.2f}",
                "gflop_per_s": f"{case.flops / timing.median / 1e3:.2f}",
                "error": "" if result.error is None else f"{result.error:.3g}",
                "allowed": "" if result.allowed is None else f"{result.allowed:.3g}",
                "note": "",
            }
        )
    blank = dict.fromkeys(table[0], "")
    table += [blank | shared | {"contestant": name, "note": reason} for name, reason in case.declined.items()]
    wrong = {"gate": "red", "speedup": "refused"}
    return table + [
        blank | shared | wrong | {"contestant": name, "note": " ".join(reason.split())}
        for name, reason in case.crashed.items()
    ]


def of_case(table: Sequence[Row], case: Case) -> list[Row]:
    """The rows of a table that are of this case."""
    wanted = key(case)
    return [row for row in table if all(row.get(name) == value for name, value in wanted.items())]


def complete(table: Sequence[Row], case: Case) -> bool:
    """Whether the table has this case, with all who compete or would."""
    return {row["contestant"] for row in of_case(table, case)} >= case.names
