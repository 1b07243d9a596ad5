"""The tests marked `gpu`, each file in a new process, so that an illegal access in one does not disturb the others.

Some files run at a time, and what fails is shown when it fails.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNABLE, Outcome, Part, Setting, conclude
from glide_fast.bench.record import Row

STANDS_IN = "tests/ops/test_backends.py"
"""The file that runs where there is no GPU, to test this part."""
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "support.failures_at_once")
# The plugin is found through this path; the entries that the path has already stay on it.
PATHS = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(command.ROOT / "tests"), os.environ.get("PYTHONPATH")]))
}
AT_A_TIME = max(1, min(8, (os.cpu_count() or 1) // 2))
"""How many files run at a time: most of their time goes into starting Python and compiling, on one core each."""


class Counted(NamedTuple):
    """The results of a file's tests."""

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
    ran = command.run([*PYTEST, "--collect-only", *marked], seconds, PATHS)
    names = (line.split("::")[0] for line in ran.output.splitlines() if "::" in line)
    return list(dict.fromkeys(names))


def run(setting: Setting) -> Outcome:
    marked = ["-m", "gpu"] if setting.device == "cuda" else []
    chosen = files(marked, setting.seconds_left) if marked else [STANDS_IN]
    if not chosen:
        return Outcome(UNABLE, notes=("pytest is missing, or finds no test marked gpu",))
    table = setting.table("tests", ("file",))
    known = {row["file"] for row in table.rows if row["gate"] == GREEN}

    def attempt(file: str) -> tuple[str, Row | None]:
        """The file with its result, or with None if the time is up."""
        return file, None if setting.time_is_up else one(file, marked, setting.seconds_left)

    left = []
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        for done in as_completed([threads.submit(attempt, file) for file in chosen if file not in known]):
            file, found = done.result()
            if found is None:
                left.append(file)
            else:
                table.add({"file": file} | found)
    return conclude(table.file, table.red(), ", ".join(sorted(left)))


def one(file: str, marked: Sequence[str], seconds: float) -> Row:
    """Run a file's tests; the row is green if at least one test passed and none failed. A test may skip itself."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        ran = command.run([*PYTEST, *marked, f"--junitxml={report}", file], seconds, PATHS)
        counted = count(report) if report.exists() else Counted(0, (), ())
    return judged(ran, counted)


def judged(ran: command.Ran, counted: Counted) -> Row:
    """The row of a file, from pytest's exit status and the counted results."""
    notes = [f"failed: {', '.join(counted.failed)}"] if counted.failed else []
    if ran.status != 0:
        notes.append("the time was up" if ran.status is None else ran.tail)
    elif not counted.passed:
        notes.append("no test passed")
    state = GREEN if not notes else RED
    notes += [f"skipped: {reason}" for reason in counted.skipped]
    return {
        "gate": state,
        "passed": str(counted.passed),
        "failed": str(len(counted.failed)),
        "skipped": str(len(counted.skipped)),
        "note": "; ".join(notes),
    }


def parts(setting: Setting) -> tuple[Part, ...]:
    return (Part("tests", "the tests marked gpu", run, 180, least=60, in_process=True),)
