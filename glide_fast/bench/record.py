"""Rows of results in a CSV file: reading them, writing them all, and adding one by one, so that a killed run loses none."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from glide_fast.bench.provenance import same_run

Row = dict[str, str]


def read(file: Path) -> list[Row]:
    """The rows of a CSV; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write(file: Path, rows: Sequence[Row]) -> None:
    """Replace ``file`` by these rows; a row that lacks a column of another row has an empty value there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = dict.fromkeys(column for row in rows for column in row)
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)


class Table:
    """Rows in a file, all measured with one code on one device; a row is on the disk when :meth:`add` returns.

    Args:
        key: the columns whose values are the name of a row; a later row replaces an earlier one of the same name.
        facts: columns that are the same in all rows of this run (:func:`~glide_fast.bench.provenance.provenance`). Rows in the
            file that were written by another code, device or version are dropped at the first write.
        fixed: columns and values that only this table's rows have, where several tables share the file.
        again: forget this table's earlier rows.

    Attributes:
        rows: the rows of this table, the oldest first.
    """

    def __init__(
        self,
        file: Path,
        key: Sequence[str],
        facts: Row,
        fixed: Mapping[str, str] | None = None,
        *,
        again: bool = False,
    ) -> None:
        self.file, self.key, self.facts, self.fixed = file, tuple(key), facts, dict(fixed or {})
        self.rows = [] if again else [row for row in self._of_this_run() if self._own(row)]

    def find(self, *key: str) -> Row | None:
        """The row whose key columns have these values, or None."""
        return next((row for row in self.rows if self._name(row) == key), None)

    def add(self, *rows: Row) -> None:
        """Write rows; each replaces the row with the same name, if there is one."""
        new = {self._name(row) for row in rows}
        self.rows = [row for row in self.rows if self._name(row) not in new]
        self.rows += [self.facts | self.fixed | row for row in rows]
        others = [row for row in self._of_this_run() if not self._own(row)] if self.fixed else []
        write(self.file, [*others, *self.rows])

    def red(self) -> list[str]:
        """The names of the rows whose result is wrong (gate "red"), each with its note."""
        wrong = [row for row in self.rows if row.get("gate") == "red"]
        return [": ".join(filter(None, (" ".join(self._name(row)), row.get("note")))) for row in wrong]

    def _name(self, row: Row) -> tuple[str, ...]:
        return tuple(row.get(column, "") for column in self.key)

    def _own(self, row: Row) -> bool:
        return all(row.get(column) == value for column, value in self.fixed.items())

    def _of_this_run(self) -> list[Row]:
        return [row for row in read(self.file) if same_run(row, self.facts)]
