"""A part of the GPU suite, and its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from glide_fast.bench.record import Table

GREEN, RED, UNFINISHED, UNABLE = "green", "red", "unfinished", "unable"
LONGEST = 530.0
"""The most seconds that a part may take; with its start and its end it then fits into nine minutes."""


class Setting(NamedTuple):
    """The device, the folder and the options of a run of parts."""

    device: str  # "cuda" or "cpu"
    folder: Path  # where results are written
    facts: dict[str, str]  # see glide_fast.bench.provenance
    small: bool = False  # small sizes, which only test the suite itself
    again: bool = False  # measure again what the results have already
    until: float = float("inf")  # time.monotonic() at which nothing more is to be begun
    tries: int = 0  # earlier runs of this part that had LONGEST seconds and did not end

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() > self.until

    @property
    def seconds_left(self) -> float:
        return min(LONGEST, max(1.0, self.until - time.monotonic()))

    def table(self, name: str, key: Sequence[str], file: str = "checks") -> Table:
        """The rows of the part ``name`` in a file that several parts share; its column "part" tells them apart."""
        return Table(self.folder / f"{file}.csv", key, self.facts, {"part": name}, again=self.again)


class Outcome(NamedTuple):
    """The outcome of a part.

    ``state`` is "green"; "red" if something is wrong; "unfinished" if the time was up and the next run goes on; "unable" if
    something that the part needs is missing.
    """

    state: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    tries: int = 0  # runs that had LONGEST seconds and did not end


def conclude(file: Path, wrong: Iterable[str], left: str = "") -> Outcome:
    """An outcome: red for anything ``wrong``, else unfinished if something is ``left`` for the next run, else green."""
    wrong = tuple(wrong)
    state = RED if wrong else UNFINISHED if left else GREEN
    return Outcome(state, (file,), (*wrong, f"to go on with {left}") if left else wrong)


class Part(NamedTuple):
    """One part of the suite.

    Attributes:
        name: words, of which the first ones name a group: "step" selects "step base 2".
        about: one line for people.
        seconds: the expected time on an H100, used until the part has been measured.
        least: for a part that keeps its results when it is cut short, and goes on in the next run: the least time in which to
            begin it. None for a part that loses its results, which needs all of ``seconds``.
        in_process: whether to run it in the suite's process, since other programs do its work; else it gets a new process.
    """

    name: str
    about: str
    run: Callable[[Setting], Outcome]
    seconds: float
    least: float | None = None
    in_process: bool = False
