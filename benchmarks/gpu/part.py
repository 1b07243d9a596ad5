"""A part of the GPU suite: what it is called, how long it may take, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

GREEN, RED, UNFINISHED, UNABLE = "green", "red", "unfinished", "unable"
LONGEST = 530.0
"""Seconds that a part may plan for: it, its start and its end fit into nine minutes."""


class Setting(NamedTuple):
    """Where and how parts run."""

    device: str  # "cuda" or "cpu"
    folder: Path  # where results are written
    facts: dict[str, str]  # see glide_fast.bench.provenance
    small: bool = False  # sizes that only try the plumbing
    again: bool = False  # what the results have already is measured again
    until: float = float("inf")  # time.monotonic() at which nothing more is to be begun

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() > self.until

    @property
    def seconds_left(self) -> float:
        return min(LONGEST, max(1.0, self.until - time.monotonic()))


class Outcome(NamedTuple):
    """What came of a part.

    ``state`` is "green"; "red" where something is wrong; "unfinished" where the time was up and the next run goes on; "unable"
    where something that it needs is missing.
    """

    state: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def conclude(file: Path, wrong: Iterable[str], left: str = "") -> Outcome:
    """Red where something is wrong, else unfinished where something is ``left`` to go on with, else green."""
    wrong = tuple(wrong)
    state = RED if wrong else UNFINISHED if left else GREEN
    return Outcome(state, (file,), (*wrong, f"to go on with {left}") if left else wrong)


class Part(NamedTuple):
    """One part. ``run`` is called in a process of its own, which is ended a little after ``seconds``."""

    name: str
    about: str
    run: Callable[[Setting], Outcome]
    seconds: float = LONGEST
