"""Compiles the default configurations of the Triton kernels with the oldest and the newest Triton that pyproject.toml allows.

The newest is what the package index has today, so that a release which the kernels do not compile with is noticed. Both are
installed beside the environment's own, into folders that only the compiling processes look into. Nothing is run: the tests
interpret the kernels with the environment's Triton. Needs no GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def floor(pyproject: str) -> str:
    """The version in ``triton>=`` of this pyproject.toml."""
    found = re.findall(r'^\s*"triton>=([\d.]+)', pyproject, re.MULTILINE)
    if len(found) != 1:
        raise SystemExit(f"pyproject.toml has {len(found)} lines with triton>=, where one was expected")
    return found[0]


def newest() -> str:
    """The newest release that the package index has for this Python."""
    pip = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check", "triton"]
    listed = subprocess.run(pip, check=True, capture_output=True, text=True).stdout
    found = re.match(r"triton \(([\d.]+)\)", listed)
    if found is None:
        raise SystemExit(f"pip index versions triton says {listed[:200]!r}, where a version was expected")
    return found[1]


def install(version: str, folder: Path) -> None:
    """Put this Triton, and nothing else, into ``folder``; kept from run to run."""
    complete = folder / ".complete"
    if not complete.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
        subprocess.run([*pip, "--no-deps", "--target", str(folder), f"triton=={version}"], check=True)
        complete.touch()


def compile_with(folder: Path, version: str) -> int:
    """The exit status of the compilation with the Triton in ``folder``."""
    # Triton's own cache serves: its keys hold the compiler, so that the tests find there what the same version has compiled.
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    ask = [sys.executable, "-c", "import triton; print(triton.__version__)"]
    found = subprocess.run(ask, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    if not re.match(rf"{re.escape(version)}(\.|$)", found.stdout.strip()):
        raise SystemExit(f"{folder} holds Triton {found.stdout.strip()}, not {version}")
    report = [sys.executable, "-m", "glide_fast.kernels.compile_report", "--check", "--target", "90"]
    workers = ("--workers", str(os.cpu_count() or 1))
    return subprocess.run([*report, *workers], env=environment, cwd=ROOT).returncode


def main() -> int:
    status = 0
    for version in (floor((ROOT / "pyproject.toml").read_text(encoding="utf-8")), newest()):
        print(f"Triton {version}:", flush=True)
        folder = ROOT / "build" / f"triton-{version}-py{sys.version_info[0]}{sys.version_info[1]}"
        install(version, folder)
        status = compile_with(folder, version) or status
    return status


if __name__ == "__main__":
    sys.exit(main())
