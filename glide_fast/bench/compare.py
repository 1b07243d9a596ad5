"""``python -m glide_fast.bench.compare BEFORE.csv AFTER.csv``: the same measurements in two files, side by side.

A difference counts where the quartiles of both are apart; anything else is noise. Files of other devices, versions or
threads can be compared as well: what differs is said first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from glide_fast.bench.measurement import quantity
from glide_fast.bench.record import Row, read

FACTS = ("device", "threads", "python", "torch", "triton", "cuda", "glide_fast", "commit")
KEY = ("case", "part", "model", "work", "contestant")


class Difference(NamedTuple):
    """One measurement in both files; ``ratio`` is after over before."""

    name: str
    before: Row
    after: Row

    @property
    def ratio(self) -> float:
        return float(self.after["value"]) / float(self.before["value"])

    @property
    def clear(self) -> bool:
        """Whether the quartiles do not overlap."""
        (low, high), (other_low, other_high) = _quartiles(self.before), _quartiles(self.after)
        return other_low > high or other_high < low

    def __str__(self) -> str:
        before, after = (quantity(float(row["value"]), row["unit"]) for row in (self.before, self.after))
        verdict = "" if self.clear else "noise"
        gates = (
            ""
            if self.before["gate"] == self.after["gate"]
            else f"gate {self.before['gate'] or '-'} to {self.after['gate'] or '-'}"
        )
        return f"{before:>9} {after:>9} {self.ratio:7.3f}x {verdict:5}  {self.name} {gates}".rstrip()


def _quartiles(row: Row) -> tuple[float, float]:
    return float(row["lower"] or row["value"]), float(row["upper"] or row["value"])


def differences(before: Sequence[Row], after: Sequence[Row]) -> list[Difference]:
    """The measurements that have a value in both files, in the order of the first."""
    later = {_name(row): row for row in after if row.get("value")}
    return [
        Difference(", ".join(filter(None, _name(row))), row, later[_name(row)])
        for row in before
        if row.get("value") and _name(row) in later
    ]


def _name(row: Row) -> tuple[str, ...]:
    return tuple(row.get(column, "") for column in KEY)


def facts(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """Which facts of the two runs differ."""
    lines = []
    for name in FACTS:
        values = [", ".join(dict.fromkeys(row.get(name, "") for row in rows)) for rows in (before, after)]
        if values[0] != values[1]:
            lines.append(f"{name}: {values[0]} / {values[1]}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where ``--worse`` is given and something became clearly slower, or wrong; 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m glide_fast.bench.compare", description=__doc__.split(": ", 1)[1].split("\n")[0]
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--worse",
        type=float,
        metavar="RATIO",
        help="exit with 1 where a time beyond the noise is more than this multiple of the earlier one, such as 1.05",
    )
    options = parser.parse_args(arguments)
    before, after = read(options.before), read(options.after)
    found = differences(before, after)
    if not found:
        print("no measurement is in both files", file=sys.stderr)
        return 2
    print("\n".join([*facts(before, after), f"{'before':>9} {'after':>9} {'ratio':>8}"]))
    print("\n".join(str(one) for one in found))
    if options.worse is None:
        return 0
    bad = [one for one in found if one.after["gate"] == "red" or (one.clear and one.ratio > options.worse)]
    print("\n".join(f"WORSE: {one.name}" for one in bad))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
