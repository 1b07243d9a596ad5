"""Results as rows of a CSV that say what they were measured on."""

from __future__ import annotations

import csv
import datetime
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

import glide_fast
from benchmarks.case import COPY, Case, Result
from glide_fast.env import environment

HOME = Path(__file__).resolve().parent
RESULTS = HOME / "results"


def device_name(device: str) -> str:
    """The device as its maker calls it, with the cores or the part of it that torch uses."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = environment()["cpu"]
    model = str(cpu.get("model") or platform.machine())
    return f"{model} {'+'.join(cpu.get('features', []))}".strip()


def slug(name: str) -> str:
    """``name`` as a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=HOME, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def provenance(device: str) -> dict[str, str]:
    """The columns that are the same for every row of a run."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", "../glide_fast", "../kernels", "../csrc"
    )
    try:
        import triton

        triton_version = str(triton.__version__)
    except ImportError:
        triton_version = ""
    return {
        "when": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": device_name(device),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton_version,
        "cuda": torch.version.cuda or "",
        "glide_fast": glide_fast.__version__,
        "commit": commit + ("+changes" if changed else "") if commit else "unknown",
    }


def rows(case: Case, results: Sequence[Result]) -> list[dict[str, str]]:
    """One row a contestant, then one for each that declined."""
    copy = next(result.timing.median for result in results if result.contestant == COPY)
    shared = {
        "op": case.op,
        "model": case.model,
        "shape": case.shape,
        "dtype": str(case.dtype).removeprefix("torch."),
    }
    table = []
    for result in results:
        timing = result.timing
        table.append(
            shared
            | {
                "contestant": result.contestant,
                "gate": result.gate,
                "speedup": "refused"
                if result.gate == "red"
                else ""
                if result.speedup is None
                else f"{result.speedup:.3f}",
                "median_us": f"{timing.median:.2f}",
                "q1_us": f"{timing.lower:.2f}",
                "q3_us": f"{timing.upper:.2f}",
                "best_us": f"{timing.best:.2f}",
                "samples": str(timing.samples),
                "over_copy": f"{timing.median / copy:.3f}",
                "gb_per_s": f"{case.moved_bytes / timing.median / 1e3:.2f}",
                "gflop_per_s": f"{case.flops / timing.median / 1e3:.2f}",
                "error": "" if result.error is None else f"{result.error:.3g}",
                "allowed": "" if result.allowed is None else f"{result.allowed:.3g}",
                "note": "",
            }
        )
    blank = dict.fromkeys(table[0], "")
    table += [blank | shared | {"contestant": name, "note": reason} for name, reason in case.declined.items()]
    return table


def write(file: Path, table: Sequence[dict[str, str]]) -> None:
    """Replace ``file`` by these rows, which have the same columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    partial.replace(file)
