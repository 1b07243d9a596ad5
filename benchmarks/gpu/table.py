"""A CSV that grows row by row and is taken up again by the next run of the same code on the same device."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gpu.part import Setting
from benchmarks.record import Row, read, write
from glide_fast.bench.provenance import same_run


class Table:
    """Rows with the same columns, of which ``key`` name one; each :meth:`add` is on the disk when it returns."""

    def __init__(self, setting: Setting, name: str, key: Sequence[str]) -> None:
        self.file, self.facts, self.key = setting.folder / f"{name}.csv", setting.facts, tuple(key)
        self.rows = [] if setting.again else [row for row in read(self.file) if same_run(row, setting.facts)]

    def find(self, *key: str) -> Row | None:
        """The row of this key, or None."""
        return next((row for row in self.rows if tuple(row[name] for name in self.key) == key), None)

    def add(self, row: Row) -> None:
        """Write a row, in place of one with the same key."""
        key = tuple(row[name] for name in self.key)
        self.rows = [old for old in self.rows if tuple(old[name] for name in self.key) != key]
        self.rows.append(self.facts | row)
        write(self.file, self.rows)
