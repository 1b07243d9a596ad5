"""compute-sanitizer over every op's kernels: out-of-bounds and misaligned accesses, then races on shared memory."""

from __future__ import annotations

import os
import re
import shutil
import sys

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNABLE, Outcome, Part, Setting, conclude
from benchmarks.gpu.probes import PROBES
from benchmarks.gpu.table import Table

TOOLS = ("memcheck", "racecheck")
NONE = "no tool"
"""In place of a tool where there is no GPU: the probes run by themselves, to try the plumbing."""
STATUS = 86
"""Exit status that compute-sanitizer is asked to give where it found something."""


def find() -> str | None:
    """Where compute-sanitizer is."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    candidates = (
        "compute-sanitizer",
        f"{home}/bin/compute-sanitizer",
        f"{home}/compute-sanitizer/compute-sanitizer",
    )
    return next((path for candidate in candidates if (path := shutil.which(candidate))), None)


def summary(output: str) -> tuple[int, str] | None:
    """Errors and the line that counts them, as compute-sanitizer closes; None where it did not come to that."""
    lines = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", output)
    if not lines:
        return None
    counts = re.findall(r"(\d+) (?:error|hazard)", lines[-1])
    return sum(int(count) for count in counts), lines[-1]


def run(setting: Setting) -> Outcome:
    program = find() if setting.device == "cuda" else None
    if setting.device == "cuda" and program is None:
        return Outcome(UNABLE, notes=("no compute-sanitizer found (CUDA toolkit; set CUDA_HOME)",))
    table = Table(setting, "sanitizer", ("tool", "op"))
    names = list(dict.fromkeys(probe.op for probe in PROBES))
    for tool in TOOLS if program else (NONE,):
        for op in names:
            row = table.find(tool, op)
            if row and row["state"] == GREEN:
                continue
            if setting.time_is_up:
                return conclude(table.file, wrong(table), f"{tool} of {op}")
            table.add({"tool": tool, "op": op} | one(program, tool, op, setting))
    return conclude(table.file, wrong(table))


def wrong(table: Table) -> list[str]:
    """The rows that are not green."""
    return [f"{row['tool']} of {row['op']}: {row['notes']}" for row in table.rows if row["state"] != GREEN]


def one(program: str | None, tool: str, op: str, setting: Setting) -> dict[str, str]:
    """The probes of one op under one tool. Green needs the tool's own count of nothing, not only a good exit."""
    probes = [sys.executable, "-m", "benchmarks.gpu.probes", op, "--device", setting.device]
    probes += ["--first", "1"] * setting.small
    # Each tensor an allocation of its own: an access beyond one is then no access to another's memory.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    front = [program, "--tool", tool, "--error-exitcode", str(STATUS)] if program else []
    ran = command.run([*front, *probes], setting.seconds_left, environment)
    counted = summary(ran.output)
    if ran.status is None:
        return {"state": RED, "errors": "", "notes": "the time was up"}
    if program and counted is None:
        return {"state": RED, "errors": "", "notes": f"no summary: {ran.tail}"}
    errors, line = counted or (0, "")
    state = GREEN if ran.status == 0 and errors == 0 else RED
    notes = line if state == GREEN or errors else f"exit status {ran.status}: {ran.tail}"
    return {"state": state, "errors": str(errors), "notes": notes}


PARTS = (Part("sanitizer", "compute-sanitizer: " + " and ".join(TOOLS), run),)
