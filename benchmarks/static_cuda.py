"""Compiles csrc/cuda for every target, without a GPU, and reads the machine code.

    python benchmarks/static_cuda.py --out benchmarks/results/static/cuda.csv

Registers, the stack and static shared memory are what cuobjdump reads out of the binary (shared memory asked for at launch is
part of a plan, not of a kernel: docs/kernels-cuda.md); spills are the instructions on thread-local memory. Nothing is run and
nothing is timed. Needs nvcc, and the cuobjdump and nvdisasm of a CUDA toolkit or of Triton.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("group_norm_act.cu", "guided_step.cu")
TARGETS = ("80", "90a", "100")
NEEDS_CLUSTERS = "one_pass"  # empty, and never launched, where there are none
CODES = {"f": "fp32", "6__half": "fp16", "13__nv_bfloat16": "bf16"}


class Row(NamedTuple):
    """One line of the report."""

    kernel: str
    element: str
    vector: int  # elements that a thread moves at a time
    target: str
    registers: int
    stack_bytes: int
    spill_instructions: int
    shared_bytes: int
    nvcc: str
    commit: str


class MissingTool(Exception):
    """A program of the CUDA toolkit is not here; the message names it."""


def find(tool: str) -> str:
    """Where a program of the CUDA toolkit is."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    candidates = [tool, f"{home}/bin/{tool}"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        candidates.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / tool))
    for candidate in candidates:
        if path := shutil.which(candidate):
            return path
    raise MissingTool(f"no {tool} found (CUDA toolkit; set CUDA_HOME)")


def _output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def _entry(mangled: str) -> tuple[str, str, int] | None:
    """A kernel's name, element type and vector, out of its mangled name: ``...4cuda8one_passI6__halfLi8EE...``."""
    found = re.search(r"4cuda\d+(\w+?)I(f|6__half|13__nv_bfloat16)Li(\d+)EE", mangled)
    if found:
        return found[1], CODES[found[2]], int(found[3])
    return ("guided_step", "any", 4) if "7advance" in mangled else None


def report(targets: tuple[str, ...] = TARGETS) -> Iterator[Row]:
    """A row for every kernel and target."""
    nvcc, cuobjdump, nvdisasm = find("nvcc"), find("cuobjdump"), find("nvdisasm")
    version = re.findall(r"release ([\d.]+)", _output(nvcc, "--version"))[-1]
    try:
        commit = _output("git", "-C", ROOT, "describe", "--always", "--dirty=+").strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "code.cubin"
        for source in SOURCES:
            for target in targets:
                flags = ("-std=c++17", "-O3", f"-gencode=arch=compute_{target},code=sm_{target}", "-cubin")
                _output(nvcc, *flags, ROOT / "csrc" / "cuda" / source, "-o", cubin)
                usage = _output(cuobjdump, "-res-usage", cubin)
                spills = _spills(_output(nvdisasm, "-c", cubin))
                for name, figures in re.findall(r"Function ([^\s:]+):\s*\n?\s*(REG:.*)", usage):
                    entry = _entry(name)
                    if entry is None or (entry[0] == NEEDS_CLUSTERS and target == "80"):
                        continue
                    numbers = {
                        key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", figures)
                    }
                    yield Row(
                        *entry,
                        target=f"sm_{target}",
                        registers=numbers["REG"],
                        stack_bytes=numbers["STACK"],
                        spill_instructions=spills[name],
                        shared_bytes=numbers["SHARED"],
                        nvcc=version,
                        commit=commit,
                    )


def _spills(disassembly: str) -> dict[str, int]:
    """Loads from and stores to local memory, by function."""
    sections = re.split(r"^\s*\.section\s+\.text\.([^\s,]+),.*$", disassembly, flags=re.MULTILINE)
    return {
        name: len(re.findall(r"\b(?:LDL|STL)\b", code))
        for name, code in zip(sections[1::2], sections[2::2], strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write")
    parser.add_argument("--targets", default=";".join(TARGETS), help="such as 80;90a")
    arguments = parser.parse_args()
    rows = list(report(tuple(arguments.targets.split(";"))))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as sink:
        table = csv.writer(sink)
        table.writerow(Row._fields)
        table.writerows(rows)
    print(f"{arguments.out}: {len(rows)} kernels, {sum(row.spill_instructions > 0 for row in rows)} spill")


if __name__ == "__main__":
    main()
