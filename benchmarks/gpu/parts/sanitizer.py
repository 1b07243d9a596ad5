"""compute-sanitizer over every op's kernels: out-of-bounds and misaligned accesses, then races on shared memory."""

from __future__ import annotations

import os
import re
import shutil
import sys

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNABLE, Outcome, Part, Setting, conclude
from glide_fast.bench.record import Row
from glide_fast.ops.backends import ops

TOOLS = ("memcheck", "racecheck")
NONE = "no tool"
"""The name, in place of a tool's, for running the calls without any tool, where there is no GPU."""
STATUS = 86
"""The exit status that compute-sanitizer returns when it has found an error."""


def find() -> str | None:
    """The path of compute-sanitizer."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    candidates = (
        "compute-sanitizer",
        f"{home}/bin/compute-sanitizer",
        f"{home}/compute-sanitizer/compute-sanitizer",
    )
    return next((path for candidate in candidates if (path := shutil.which(candidate))), None)


def summary(output: str) -> tuple[int, str] | None:
    """The number of errors and the line that reports it, from the end of compute-sanitizer's output; None if it is missing."""
    lines = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", output)
    if not lines:
        return None
    counts = re.findall(r"(\d+) (?:error|hazard)", lines[-1])
    return sum(int(count) for count in counts), lines[-1]


def run(setting: Setting) -> Outcome:
    program = find() if setting.device == "cuda" else None
    if setting.device == "cuda" and program is None:
        return Outcome(UNABLE, notes=("no compute-sanitizer found (CUDA toolkit; set CUDA_HOME)",))
    table = setting.table("sanitizer", ("tool", "op"))
    for tool in TOOLS if program else (NONE,):
        for op in ops():
            row = table.find(tool, op)
            if row and row["gate"] == GREEN:
                continue
            if setting.time_is_up:
                return conclude(table.file, table.red(), f"{tool} of {op}")
            table.add({"tool": tool, "op": op} | one(program, tool, op, setting))
    return conclude(table.file, table.red())


def one(program: str | None, tool: str, op: str, setting: Setting) -> Row:
    """Run small calls of one op under one tool. Green only if the tool reports 0 errors; a good exit status is not enough."""
    calls = [sys.executable, "-m", "benchmarks", "--check", "--op", op, "--device", setting.device]
    calls += ["--first", "1"] * setting.small
    # Without torch's caching allocator each tensor is a separate allocation, so that an access beyond one does not hit another.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    front = [program, "--tool", tool, "--error-exitcode", str(STATUS)] if program else []
    ran = command.run([*front, *calls], setting.seconds_left, environment)
    counted = summary(ran.output)
    if ran.status is None:
        return {"gate": RED, "errors": "", "note": "the time was up"}
    if program and counted is None:
        return {"gate": RED, "errors": "", "note": f"no summary: {ran.tail}"}
    errors, line = counted or (0, "")
    state = GREEN if ran.status == 0 and errors == 0 else RED
    notes = line if state == GREEN or errors else f"exit status {ran.status}: {ran.tail}"
    return {"gate": state, "errors": str(errors), "note": notes}


def parts(setting: Setting) -> tuple[Part, ...]:
    return (
        Part("sanitizer", f"compute-sanitizer: {' and '.join(TOOLS)}", run, 500, least=120, in_process=True),
    )
