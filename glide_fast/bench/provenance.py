"""The origin of a result: the device, the versions and the code that it was measured with."""

from __future__ import annotations

import datetime
import functools
import hashlib
import platform
import subprocess
from pathlib import Path

import torch

import glide_fast
from glide_fast.env import environment

ROOT = Path(glide_fast.__file__).resolve().parents[1]
SOURCES = ("glide_fast", "kernels", "csrc", "benchmarks")
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh"}


def device_name(device: str) -> str:
    """The device's name, such as that of the GPU; for a CPU its model and instruction sets."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu = environment()["cpu"]
    model = str(cpu.get("model") or platform.machine())
    return f"{model} {'+'.join(cpu.get('features', []))}".strip()


def _in_repository() -> bool:
    """Whether this is a working tree, not an installed package."""
    return (ROOT / ".git").exists() and (ROOT / "benchmarks").is_dir()


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@functools.cache
def code() -> str:
    """A hash of the sources. Unlike a commit it differs between uncommitted changes, and stays when results are committed."""
    root, total = ROOT, hashlib.sha256()
    folders = SOURCES if _in_repository() else SOURCES[:1]
    files = (path for folder in folders for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
    for path in sorted(files):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def _commit() -> str:
    commit = _git("rev-parse", "--short=12", "HEAD") if _in_repository() else ""
    if not commit:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES, ":!benchmarks/results")
    return commit + ("+changes" if changed else "")


def provenance(device: str) -> dict[str, str]:
    """The columns that are the same for every row of a run."""
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
        "commit": _commit(),
        "code": code(),
    }


def same_run(row: dict[str, str], facts: dict[str, str]) -> bool:
    """Whether a row of an earlier run has the device, versions and code of this run, so that its result still holds."""
    return all(row.get(name) == value for name, value in facts.items() if name not in ("when", "commit"))
