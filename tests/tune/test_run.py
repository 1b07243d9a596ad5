"""A run of tuning: what is measured, in which order, what is kept, and what a file looks like whenever it is interrupted."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glide_fast.errors import InvalidInputError
from glide_fast.ops.case import Cost
from glide_fast.plans import file
from glide_fast.plans.device import Device
from glide_fast.plans.file import Candidate, PlanFile, Row
from glide_fast.tune import build
from glide_fast.tune import run as tuning
from glide_fast.tune.measure import NOTHING, Verdict
from glide_fast.tune.run import Book, Summary, run
from glide_fast.tune.tasks import Task, in_order

CPU = torch.device("cpu")
HERE = Device.of(CPU)


def task(number: int, turn: int = 0, flops: int = 0) -> Task:
    return Task("resample", f"call {number}", f"x {number}", dict, Cost(1, flops), turn, 1.0, {})


TASKS = [task(number) for number in range(6)]


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Digests of the sources, which a test may change."""
    found = {"cpu": "0123", "reference": "4567"}
    monkeypatch.setattr(tuning, "source_of", lambda op, backend: found.get(backend))
    return found


class Bar:
    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = 0

    def begin(self, title: str) -> None:
        self.begun.append(title)

    def end(self, verdict: Verdict | None) -> None:
        self.ended += 1


def measured(one: Task, device: torch.device) -> Verdict:
    sources = {name: str(tuning.source_of("resample", name)) for name in ("cpu", "reference")}
    row = Row("resample", one.signature, "float32", Candidate("cpu", None, 2.0), None, 0.0, sources, 2)
    return Verdict(row, by_rule_us=3.0)


def tune(
    path: Path,
    tasks: list[Task] = TASKS,
    minutes: float = 5,
    by: Callable[[Task, torch.device], Verdict] = measured,
    device: torch.device = CPU,
) -> tuple[Summary, list[str]]:
    bar = Bar()
    done = run(tasks, Book(path, HERE), device, minutes, bar, measured_by=by)
    return done, bar.begun


def calls(path: Path) -> list[str]:
    return [row.call for row in file.read(path).rows]


def test_every_row_is_written_and_a_second_run_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "plans.json"
    done, begun = tune(path)
    assert done == Summary(6, 0, 0, {}, 0, 18.0, 12.0) and begun == [one.title for one in TASKS]
    assert calls(path) == [one.signature for one in TASKS]
    assert file.read(path).versions["torch"] == torch.__version__
    before = path.read_bytes()
    done, begun = tune(path)
    assert (done.measured, done.kept, begun) == (0, 6, []) and path.read_bytes() == before


def test_the_most_telling_come_first() -> None:
    tasks = [task(1, 1, 10**12), task(2, 0, 10**9), task(3, 0, 10**12), task(4, 2, 10**13)]
    assert [one.title for one in in_order(tasks, "cpu")] == ["call 3", "call 2", "call 1", "call 4"]


def test_a_run_ends_with_its_time_and_the_next_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"

    def slow(one: Task, device: torch.device) -> Verdict:
        time.sleep(0.05)
        return measured(one, device)

    done, _ = tune(path, minutes=0.13 / 60, by=slow)
    assert 1 <= done.measured < 6 and done.left == 6 - done.measured == 6 - len(calls(path))
    after, begun = tune(path)
    assert after.kept == done.measured and after.left == 0 and len(begun) == done.left
    none, begun = tune(tmp_path / "none.json", minutes=0)
    assert none.left == 6 and begun == []


def test_what_was_measured_with_another_source_is_measured_anew(
    tmp_path: Path, source: dict[str, str]
) -> None:
    path = tmp_path / "plans.json"
    tune(path)
    source["reference"] = "another"  # a loser that changed may win now
    done, begun = tune(path, TASKS[:2])
    assert done.measured == 2 and len(begun) == 2
    assert calls(path) == ["x 0", "x 1"]  # what is left of the old code is dropped


def test_rows_of_another_version_are_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    tune(path)
    file.write(path, file.read(path)._replace(versions={"torch": "1.0.0"}))
    assert tune(path)[0].measured == 6


def test_why_there_is_no_row(tmp_path: Path) -> None:
    verdicts = {"call 0": Verdict(None, NOTHING), "call 1": Verdict(None, "no candidate was right")}
    done, _ = tune(
        tmp_path / "plans.json", by=lambda one, device: verdicts.get(one.title) or measured(one, device)
    )
    assert (done.measured, done.idle, done.failed) == (4, 1, {"call 1": "no candidate was right"})


def test_ctrl_c_keeps_all(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"

    def interrupted(one: Task, device: torch.device) -> Verdict:
        if one.title == "call 3":
            raise KeyboardInterrupt
        return measured(one, device)

    with pytest.raises(KeyboardInterrupt):
        tune(path, by=interrupted)
    assert calls(path) == ["x 0", "x 1", "x 2"]


def forked(work: Callable[[], Any]) -> int:
    """Run ``work`` in another process; returns its number."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")
def test_a_process_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"

    def killed(one: Task, device: torch.device) -> Verdict:
        if one.title == "call 2":
            os.kill(os.getpid(), signal.SIGKILL)
        return measured(one, device)

    _, status = os.waitpid(forked(lambda: tune(path, by=killed)), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL and calls(path) == ["x 0", "x 1"]
    assert tune(path)[0].kept == 2 and len(calls(path)) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")
def test_two_processes_into_one_file_share_the_work(tmp_path: Path) -> None:
    path, tasks = tmp_path / "plans.json", [task(number) for number in range(12)]

    def noted(one: Task, device: torch.device) -> Verdict:
        (tmp_path / f"{os.getpid()} {one.title}").touch()
        time.sleep(0.01)
        return measured(one, device)

    for child in [forked(lambda order=order: tune(path, order, by=noted)) for order in (tasks, tasks[::-1])]:
        os.waitpid(child, 0)
    assert sorted(calls(path)) == sorted(one.signature for one in tasks)
    # One that both begin at the same moment is measured twice.
    assert 12 <= len(list(tmp_path.glob("* call *"))) <= 16


def test_a_file_that_cannot_be_gone_on_with_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    path.write_text("[")
    with pytest.raises(InvalidInputError, match=r"out: got .*plans\.json"):
        Book(path, HERE)
    file.write(path, PlanFile(HERE._replace(name="Another"), {}, ()))
    with pytest.raises(InvalidInputError, match=f"a new file, or one of this device, {HERE.name}"):
        Book(path, HERE)


def test_on_a_gpu_candidates_are_compiled_before_they_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def compiled(recipes: list[Any], device: str, seconds: float) -> list[str]:
        happened.append(f"{len(recipes)} on {device}")
        return ["out of memory"] if len(happened) == 1 else []

    def timed(one: Task, device: torch.device) -> Verdict:
        happened.append(one.title)
        return measured(one, device)

    monkeypatch.setattr(build, "in_processes", compiled)
    monkeypatch.setattr(tuning, "TOGETHER", 4)
    monkeypatch.setattr(tuning, "versions_here", lambda: {"torch": torch.__version__})
    tune(tmp_path / "plans.json", TASKS[:1])
    done, _ = tune(tmp_path / "plans.json", by=timed, device=torch.device("cuda"))
    assert happened == ["4 on cuda", "call 1", "call 2", "call 3", "call 4", "1 on cuda", "call 5"]
    assert done.failed == {"compiling": "out of memory"}
