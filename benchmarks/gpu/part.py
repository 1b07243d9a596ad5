"""A part of the GPU suite: what it is called, how long it takes, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from glide_fast.bench.record import Table

GREEN, RED, UNFINISHED, UNABLE = "green", "red", "unfinished", "unable"
LONGEST = 530.0
"""Seconds that a part may take at most: it, its start and its end fit into nine minutes."""


class Setting(NamedTuple):
    """Where and how parts run."""

    device: str  # "cuda" or "cpu"
    folder: Path  # where results are written
    facts: dict[str, str]  # see glide_fast.bench.provenance
    small: bool = False  # sizes that only try the plumbing
    again: bool = False  # what the results have already is measured again
    until: float = float("inf")  # time.monotonic() at which nothing more is to be begun
    tries: int = 0  # earlier runs of this part that did not end in all the time that a part may take

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() > self.until

    @property
    def seconds_left(self) -> float:
        return min(LONGEST, max(1.0, self.until - time.monotonic()))

    def table(self, name: str, key: Sequence[str], file: str = "checks") -> Table:
        """Rows of a part, in a file that several parts share; their column "part" is its ``name``."""
        return Table(self.folder / f"{file}.csv", key, self.facts, {"part": name}, again=self.again)


class Outcome(NamedTuple):
    """What came of a part.

    ``state`` is "green"; "red" where something is wrong; "unfinished" where the time was up and the next run goes on; "unable"
    where something that it needs is missing.
    """

    state: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    tries: int = 0  # runs that did not end in all the time that a part may take


def conclude(file: Path, wrong: Iterable[str], left: str = "") -> Outcome:
    """Red where something is wrong, else unfinished where something is ``left`` to go on with, else green."""
    wrong = tuple(wrong)
    state = RED if wrong else UNFINISHED if left else GREEN
    return Outcome(state, (file,), (*wrong, f"to go on with {left}") if left else wrong)


class Part(NamedTuple):
    """One part.

    Attributes:
        name: its words before the last ones name groups: "step" selects "step base 2".
        seconds: what it is expected to take on an H100, before anybody has measured it.
        least: a part that keeps what it has and goes on in the next run is begun where this much time is left; None is all of
            ``seconds``, for a part whose time is lost where it is cut short.
        in_process: its work is done by other programs, so it needs no process of its own.
    """

    name: str
    about: str
    run: Callable[[Setting], Outcome]
    seconds: float
    least: float | None = None
    in_process: bool = False
