"""A run of tuning: tasks in their order, within a time, each row on the disk when it is there.

A second run goes on where the first one stopped, and two at once share the work: a task is left out where the file has a row that
was measured with the same sources and versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from filelock import FileLock

from glide_fast.errors import InvalidInputError
from glide_fast.plans import file
from glide_fast.plans.device import Device
from glide_fast.plans.file import PlanFile, Row
from glide_fast.plans.sources import source_of, version_of
from glide_fast.plans.table import installed, same_release
from glide_fast.tune import build
from glide_fast.tune.measure import NOTHING, Verdict, measure
from glide_fast.tune.tasks import Task

VERSIONS = ("torch", "triton", "glide-fast")
TOGETHER = 48
"""Tasks whose candidates are compiled together, before they are timed."""
MARGIN = 1.3
"""A task is left for the next run where it would take more than what is left of the time, by this much."""


class Progress(Protocol):
    """Is told what goes on."""

    def begin(self, title: str) -> None:
        """A task, or the compilation of some, begins."""

    def end(self, verdict: Verdict | None) -> None:
        """A task has ended; None where the file had its row already."""


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        measured: rows that were written.
        kept: rows that were there.
        idle: tasks for which there is nothing to choose.
        failed: why there is no row, by the title of the task.
        left: tasks that were not begun.
        rules_us, rows_us: microseconds of all measured calls by the rules' choices, and by the rows.
    """

    measured: int
    kept: int
    idle: int
    failed: Mapping[str, str]
    left: int
    rules_us: float
    rows_us: float


class Book:
    """The file that rows are written to, which another process may write to as well.

    Raises:
        InvalidInputError: the file at ``path`` is of another device, or is none.
    """

    def __init__(self, path: Path, device: Device) -> None:
        self.path, self.device = path, device
        self.rows()  # a file that cannot be gone on with is refused before anything is measured

    def rows(self) -> dict[tuple[str, str], tuple[Row, Mapping[str, str]]]:
        """The rows that are there now, each with the versions that it was measured with."""
        if not self.path.exists():
            return {}
        found = file.read(self.path, "out")
        if found.device != self.device:
            raise InvalidInputError(
                f"out: got {str(self.path)!r}; accepted: a new file, or one of this device, {self.device} "
                f"(it is of {found.device})"
            )
        return {(row.op, row.call): (row, found.versions) for row in found.rows}

    def fresh(self, task: Task) -> bool:
        """Whether the file has the task's row, measured with what would run now."""
        row, versions = self.rows().get((task.op, task.signature), (None, {}))
        return row is not None and is_fresh(row, versions)

    def add(self, row: Row) -> None:
        """Write a row in place of an earlier one of the same call; those of other sources or versions are dropped."""
        with _alone(self.path):
            kept = [
                old
                for key, (old, versions) in self.rows().items()
                if key != (row.op, row.call) and is_fresh(old, versions)
            ]
            file.write(self.path, PlanFile(self.device, versions_here(), (*kept, row)))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A block that one process at a time is in, of those that write to this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def versions_here() -> dict[str, str]:
    """The versions of what decides how fast a backend is."""
    found = {name: installed(name) for name in VERSIONS}
    if torch.version.cuda is not None and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
    return {name: version for name, version in found.items() if version}


def is_fresh(row: Row, versions: Mapping[str, str]) -> bool:
    """Whether everything that was compared for a row is what would be compared now."""
    return all(
        source == source_of(row.op, backend)
        and ((package := version_of(backend)) is None or same_release(versions.get(package, ""), package))
        for backend, source in row.sources.items()
    )


def run(
    tasks: Sequence[Task],
    book: Book,
    device: torch.device,
    minutes: float,
    progress: Progress,
    *,
    measured_by: Callable[[Task, torch.device], Verdict] = measure,
) -> Summary:
    """Measure tasks in their order until the time is up."""
    end = time.monotonic() + 60 * minutes
    done: dict[str, int] = {"measured": 0, "kept": 0, "idle": 0}
    failed: dict[str, str] = {}
    rules_us = rows_us = 0.0
    pace = Pace(device.type)
    compiled = 0
    left = 0
    for number, task in enumerate(tasks):
        if time.monotonic() + MARGIN * pace.seconds(task) > end:
            left += 1  # a smaller one may still fit
            continue
        if book.fresh(task):
            done["kept"] += 1
            progress.end(None)
            continue
        if device.type == "cuda" and number >= compiled:
            ahead = [one for one in tasks[number : number + TOGETHER] if not book.fresh(one)]
            progress.begin(f"compiling the candidates of {len(ahead)} calls")
            for reason in build.in_processes(
                [one.recipe for one in ahead], str(device), end - time.monotonic()
            ):
                failed.setdefault("compiling", reason)
            compiled = number + TOGETHER
        progress.begin(task.title)
        begun = time.monotonic()
        verdict = measured_by(task, device)
        pace.note(task, time.monotonic() - begun)
        if verdict.row is not None:
            book.add(verdict.row)
            done["measured"] += 1
            if verdict.by_rule_us is not None:
                rules_us += task.times * verdict.by_rule_us
                rows_us += task.times * verdict.row.fastest.us
        elif verdict.why_not == NOTHING:
            done["idle"] += 1
        else:
            failed[task.title] = verdict.why_not
        progress.end(verdict)
    return Summary(**done, failed=failed, left=left, rules_us=rules_us, rows_us=rows_us)


class Pace:
    """How long a task takes: what earlier ones took, in proportion to the guesses of their calls' times."""

    def __init__(self, device: str) -> None:
        self._device, self._took, self._guessed = device, 0.0, 0.0

    def note(self, task: Task, seconds: float) -> None:
        """A task has taken so long."""
        self._took += seconds
        self._guessed += self._guess(task)

    def seconds(self, task: Task) -> float:
        """What a task will take; 0 before the first one ended."""
        return self._guess(task) * self._took / self._guessed if self._guessed else 0.0

    def _guess(self, task: Task) -> float:
        # What does not depend on the size: building, comparing, starting.
        return task.seconds(self._device) + 1e-3
