"""What the tests' builds share: an object is compiled again exactly when something that it is made of has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compile_once import compile_once

COMPILER = """#!/bin/sh
# Copies the source, and notes that it was called.
echo "$*" >> "$(dirname "$0")/calls"
while [ $# -gt 0 ]; do case "$1" in -c) from=$2;; -o) to=$2;; esac; shift; done
[ -n "$from" ] && cp "$from" "$to"
"""


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    program = tmp_path / "compiler"
    program.write_text(COMPILER)
    program.chmod(0o755)
    (tmp_path / "kept").mkdir()
    return program


def tree(folder: Path, header: str = "h", source: str = "s") -> Path:
    (folder / "csrc" / "cpu").mkdir(parents=True)
    (folder / "csrc" / "shared.h").write_text(header)
    (folder / "csrc" / "cpu" / "one.cpp").write_text(source)
    return folder / "csrc" / "cpu" / "one.cpp"


def calls(compiler: Path) -> int:
    noted = compiler.with_name("calls")
    return len(noted.read_text().splitlines()) if noted.exists() else 0


def test_two_trees_share_an_object_until_something_differs(compiler: Path, tmp_path: Path) -> None:
    def build(name: str, *flags: str, compilers: str = "g++ 12", **contents: str) -> str:
        source, made = tree(tmp_path / name, **contents), tmp_path / f"{name}.o"
        command = [str(compiler), *flags, "-MF", f"{made}.d", "-c", str(source), "-o", str(made)]
        assert compile_once(tmp_path / "kept", compilers, command) == 0
        return made.read_text()

    assert build("first") == "s" and calls(compiler) == 1
    assert build("second") == "s" and calls(compiler) == 1
    assert build("third", header="other") == "s" and calls(compiler) == 2
    assert build("fourth", source="other") == "other" and calls(compiler) == 3
    assert build("fifth", "-O3") == "s" and calls(compiler) == 4
    assert build("sixth", compilers="g++ 13") == "s" and calls(compiler) == 5
    assert build("seventh", "-O3") == "s" and calls(compiler) == 5


def test_what_fails_is_not_kept(compiler: Path, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    command = [str(compiler), "-c", str(source), "-o", str(tmp_path / "missing" / "one.o")]
    for count in (1, 2):
        assert compile_once(tmp_path / "kept", "", command) != 0
        assert calls(compiler) == count
    assert not list((tmp_path / "kept").glob("*.o"))


def test_other_calls_go_to_the_compiler(compiler: Path, tmp_path: Path) -> None:
    elsewhere, made = tmp_path / "elsewhere.cpp", tmp_path / "elsewhere.o"
    elsewhere.write_text("e")
    for count in (1, 2):
        assert (
            compile_once(tmp_path / "kept", "", [str(compiler), "-c", str(elsewhere), "-o", str(made)]) == 0
        )
        assert made.read_text() == "e" and calls(compiler) == count
    assert (
        compile_once(tmp_path / "kept", "", [str(compiler), "--version"]) != 0
    )  # as the compiler itself says
    assert not list((tmp_path / "kept").iterdir())
