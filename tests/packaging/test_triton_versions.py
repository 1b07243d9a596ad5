"""CI's compilation with the oldest and the newest Triton: which ones these are, and that it is they which compile."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
script: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "triton_versions.py"))


def test_the_floor_is_the_one_that_pip_sees() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if '"triton>' in line)
    floor = script["floor"](text)
    allowed = Requirement(line.strip().rstrip(",").strip('"')).specifier
    assert allowed.contains(floor) and str(allowed) == f">={floor}"
    with pytest.raises(SystemExit, match="0 lines"):
        script["floor"]("")


@pytest.mark.parametrize("failing", ["3.6", "3.9.0", None])
def test_both_are_installed_beside_and_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str | None
) -> None:
    ran: list[tuple[list[str], str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        path = options.get("env", {}).get("PYTHONPATH", "")
        # One cache for this and for the tests: what the environment's own version compiles here, they need not.
        assert options.get("env", {}).get("TRITON_CACHE_DIR") == os.environ.get("TRITON_CACHE_DIR")
        ran.append((command, path))
        failed = "--check" in command and f"triton-{failing}-" in path
        said = "triton (3.9.0)\nAvailable versions: 3.9.0, 3.8.0\n" if "index" in command else ""
        asked = f"{path.split('triton-')[-1].split('-')[0]}.0\n"
        return subprocess.CompletedProcess(command, 3 if failed else 0, said or asked, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(script["main"].__globals__, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("    \"triton>=3.6; platform_system == 'Linux'\",\n")
    folders = []
    for version in ("3.6", "3.9.0"):
        folders.append(tmp_path / "build" / f"triton-{version}-py{sys.version_info[0]}{sys.version_info[1]}")
        folders[-1].mkdir(parents=True)
    for _ in range(2):
        assert script["main"]() == (0 if failing is None else 3)
    installed = [command[-3:] for command, _ in ran if "install" in command]  # once: they are kept
    assert installed == [
        ["--target", str(folders[0]), "triton==3.6"],
        ["--target", str(folders[1]), "triton==3.9.0"],
    ]
    assert all("--no-deps" in command for command, _ in ran if "install" in command)
    compiled = [path for command, path in ran if "glide_fast.kernels.compile_report" in command]
    assert compiled == [*map(str, folders)] * 2


def test_an_index_that_says_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 0, "nothing\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    with pytest.raises(SystemExit, match="says 'nothing"):
        script["newest"]()


def test_another_triton_than_the_one_asked_for_is_not_taken_for_it(tmp_path: Path) -> None:
    """Whatever else lies in the folder, or comes first on the path."""
    (tmp_path / "triton.py").write_text("__version__ = '3.60.0'\n")
    with pytest.raises(SystemExit, match=r"holds Triton 3\.60\.0, not 3\.6"):
        script["compile_with"](tmp_path, "3.6")
