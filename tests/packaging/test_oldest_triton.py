"""CI's compilation with the oldest Triton: which one that is, and that it is that one which compiles."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
script: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "oldest_triton.py"))


def test_the_floor_is_the_one_that_pip_sees() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if '"triton>' in line)
    floor = script["floor"](text)
    allowed = Requirement(line.strip().rstrip(",").strip('"')).specifier
    assert allowed.contains(floor) and str(allowed) == f">={floor}"
    with pytest.raises(SystemExit, match="0 lines"):
        script["floor"]("")


def test_it_is_installed_beside_and_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[list[str], str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        ran.append((command, options.get("env", {}).get("PYTHONPATH", "")))
        return subprocess.CompletedProcess(command, 3 if "--check" in command else 0, "3.6.0\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(script["main"].__globals__, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text("    \"triton>=3.6; platform_system == 'Linux'\",\n")
    folder = tmp_path / "build" / f"triton-3.6-py{sys.version_info[0]}{sys.version_info[1]}"
    folder.mkdir(parents=True)
    for times in (1, 2):
        assert script["main"]() == 3  # what the compilation says
        assert len([command for command, _ in ran if "pip" in command]) == 1, times
    (install, nowhere), _, (compilation, path) = ran[:3]
    assert install[-3:] == ["--target", str(folder), "triton==3.6"] and "--no-deps" in install
    assert "glide_fast.kernels.compile_report" in compilation
    assert (nowhere, path) == ("", str(folder))


def test_another_triton_than_the_oldest_is_not_taken_for_it(tmp_path: Path) -> None:
    """Whatever else lies in the folder, or comes first on the path."""
    (tmp_path / "triton.py").write_text("__version__ = '3.60.0'\n")
    with pytest.raises(SystemExit, match=r"holds Triton 3\.60\.0, not 3\.6"):
        script["compile_with"](tmp_path, "3.6")
