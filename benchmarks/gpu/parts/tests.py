"""The tests marked `gpu`, a file at a time: an illegal access in one spoils its own process only."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNABLE, Outcome, Part, Setting, conclude
from benchmarks.gpu.table import Table

STANDS_IN = "tests/ops/test_backends.py"
"""Runs where there is no GPU, to try the plumbing."""
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


class Counted(NamedTuple):
    """A file's tests."""

    passed: int
    failed: tuple[str, ...]
    skipped: tuple[str, ...]  # with the reason


def count(report: Path) -> Counted:
    """Read pytest's JUnit report."""
    passed, failed, skipped = 0, [], []
    for test in ElementTree.parse(report).iter("testcase"):
        name, skip = test.get("name", "?"), test.find("skipped")
        if test.find("failure") is not None or test.find("error") is not None:
            failed.append(name)
        elif skip is not None:
            skipped.append(f"{name}: {skip.get('message')}")
        else:
            passed += 1
    return Counted(passed, tuple(failed), tuple(skipped))


def files(marked: Sequence[str], seconds: float) -> list[str]:
    """The files with tests that pytest selects by ``marked``."""
    ran = command.run([*PYTEST, "--collect-only", *marked], seconds)
    names = (line.split("::")[0] for line in ran.output.splitlines() if "::" in line)
    return list(dict.fromkeys(names))


def run(setting: Setting) -> Outcome:
    marked = ["-m", "gpu"] if setting.device == "cuda" else []
    chosen = files(marked, setting.seconds_left) if marked else [STANDS_IN]
    if not chosen:
        return Outcome(UNABLE, notes=("pytest is missing, or finds no test marked gpu",))
    table = Table(setting, "tests", ("file",))
    for file in chosen:
        row = table.find(file)
        if row and row["state"] == GREEN:
            continue
        if setting.time_is_up:
            return conclude(table.file, wrong(table), file)
        table.add({"file": file} | one(file, marked, setting.seconds_left))
    return conclude(table.file, wrong(table))


def wrong(table: Table) -> list[str]:
    """The files that are not green."""
    return [f"{row['file']}: {row['notes']}" for row in table.rows if row["state"] != GREEN]


def one(file: str, marked: Sequence[str], seconds: float) -> dict[str, str]:
    """Run a file's tests; green where all passed that did not skip themselves, and some did pass."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        ran = command.run([*PYTEST, *marked, f"--junitxml={report}", file], seconds)
        counted = count(report) if report.exists() else Counted(0, (), ())
    notes = [f"failed: {', '.join(counted.failed)}"] if counted.failed else []
    if ran.status != 0:
        notes.append("the time was up" if ran.status is None else ran.tail)
    elif not counted.passed:
        notes.append("no test passed")
    state = GREEN if not notes else RED
    notes += [f"skipped: {reason}" for reason in counted.skipped]
    return {
        "state": state,
        "passed": str(counted.passed),
        "failed": str(len(counted.failed)),
        "skipped": str(len(counted.skipped)),
        "notes": "; ".join(notes),
    }


PARTS = (Part("tests", "the tests marked gpu", run),)
