"""What `pip install` puts on a machine: one top-level name, everything in it, with a compiler and without.

Works on a copy of the source tree, so nothing is built in the tree that the tests run from. A second distribution that owns
a top-level package `kernels` is installed beside glide_fast wherever it could get in the way.
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from filelock import FileLock
from support import compile_once

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("csrc", "glide_fast", "kernels", "tests")
FILES = ("LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "setup.py")
COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BORROWED = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index")

LOOK = """
import importlib.util, json, sys
import glide_fast, glide_fast.kernels, kernels
native = importlib.util.find_spec("glide_fast._C")
print(json.dumps({
    "glide_fast": glide_fast.__file__,
    "glide_fast.kernels": glide_fast.kernels.__file__,
    "kernels": getattr(kernels, "OWNER", None),
    "native": native and native.origin,
    "torch": "torch" in sys.modules,
}))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """A command's output; its failure fails the test with all that it said."""
    # What the outer process was told about its own paths and backends must not reach the inner one.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GLIDE_FAST_", "CXX"))}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        # One GPU architecture is enough to see whether the build works; three triple nvcc's time.
        env={**inherited, "GLIDE_FAST_CUDA_TARGETS": "90a", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def look(target: Path, code: str, cwd: Path) -> str:
    """Run code on what is installed in ``target`` and on this environment's other packages."""
    # -S: not on its .pth files, through which an editable install of glide_fast would be found.
    return run(
        sys.executable, "-S", "-c", code, cwd=cwd, PYTHONPATH=os.pathsep.join([str(target), *BORROWED])
    )


def build_wheel(tree: Path, into: Path, **environment: str) -> Path:
    run(*PIP, "wheel", *OFFLINE, "-w", into, tree, cwd=into, **environment)
    (wheel,) = into.glob("glide_fast-*.whl")
    return wheel


def record_in(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:
        record: dict[str, Any] = json.loads(archive.read("glide_fast/_build.json"))
    return record


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which C++ compiles without optimisation, six times as fast: here it is built, and not run for long.

    And in which the two builds of these tests share their objects, with each other and with those of an earlier run.
    """
    if COMPILER is None:
        return {}
    folder = tmp_path_factory.mktemp("quick")
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    programs = {"CXX": (COMPILER, "-O0")}
    with suppress(setup["CannotBuild"]):
        programs["NVCC"] = (setup["find_nvcc"](), "")
    compilers = "\n".join(setup["output_of"](program, "--version") for program, _ in programs.values())
    headers = f"pybind11 {metadata.version('pybind11')}, Python {sys.version}"
    once = (
        sys.executable,
        "-I",
        "-S",
        compile_once.__file__,
        tempfile.gettempdir(),
        f"{compilers}\n{headers}",
    )
    environment = {}
    for variable, (program, option) in programs.items():
        script = folder / Path(program).name
        script.write_text(f'#!/bin/sh\nexec {shlex.join([*once, program])} "$@" {option}\n')
        script.chmod(0o755)
        environment[variable] = str(script)
    return environment


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, without anything built in place."""
    copy = tmp_path_factory.mktemp("source") / "glide_fast"
    built = shutil.ignore_patterns("__pycache__", "*.so", "_build.json", "*.egg-info", ".*")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=built)
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path, quick: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all test processes of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "wheel"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            unfinished.mkdir()
            build_wheel(tree, unfinished, **quick)
            unfinished.rename(folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of another distribution, whose one top-level package is called `kernels`."""
    path = tmp_path_factory.mktemp("rival") / "rival-1.0-py3-none-any.whl"
    info = "rival-1.0.dist-info"
    contents = {
        "kernels/__init__.py": "OWNER = 'rival'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in (*contents, f"{info}/RECORD")))
    return path


def test_the_wheel_holds_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (listed,) = (name for name in names if name.endswith(".dist-info/top_level.txt"))
        assert archive.read(listed).split() == [b"glide_fast"]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"glide_fast", listed.split("/")[0]}


def test_the_wheel_is_complete(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = tree / "glide_fast"
    data = [*(package / "text" / "data").glob("*"), *(package / "weights").rglob("*"), package / "py.typed"]
    wanted = {path.relative_to(tree).as_posix() for path in (*package.rglob("*.py"), *data) if path.is_file()}
    wanted |= {f"glide_fast/{path.relative_to(tree).as_posix()}" for path in (tree / "kernels").rglob("*.py")}
    assert "glide_fast/kernels/__init__.py" in wanted
    assert wanted - names == set()
    assert not [
        name for name in names if name.startswith("glide_fast/") and name.endswith((".cpp", ".h", ".cu"))
    ]


def test_the_wheel_holds_the_native_library_where_there_is_a_compiler(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.startswith("glide_fast/_C.")]
    record = record_in(wheel)
    assert record["native"] is (COMPILER is not None), record
    assert len(libraries) == (1 if COMPILER else 0)
    if COMPILER:
        assert "portable" in record["cpu_targets"] and Path(record["cxx"].split(":")[0]).name in COMPILER
        assert record["cuda_targets"] if record["cuda"] else record["cuda_why_not"]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of steps is written for Linux")
def test_the_wheel_holds_what_was_compiled_against_torch(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.startswith("glide_fast/_arena.")]
    record = record_in(wheel)
    assert len(libraries) == (1 if COMPILER else 0)
    assert record["torch"] == (metadata.version("torch") if COMPILER else None)


def test_without_torch_the_rest_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(setup["sysconfig"], "get_paths", lambda: dict.fromkeys(("purelib", "platlib"), "/"))
    with pytest.raises(setup["CannotBuild"], match="install torch, then glide_fast again"):
        setup["find_torch"]()


@pytest.mark.parametrize("knows", [True, False])
def test_tiles_are_left_out_where_the_compiler_does_not_know_them(tmp_path: Path, knows: bool) -> None:
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    for compiler in ("false", str(tmp_path / "missing")):
        assert not setup["knows_amx"]([compiler])
    ninja = setup["NinjaFile"](tmp_path, tmp_path / "library.so", ["g++"])
    names = ninja.add_cpu.__globals__
    with (
        mock.patch.dict(names, knows_amx=lambda cxx: knows),
        mock.patch("platform.machine", lambda: "x86_64"),
    ):
        built = ninja.add_cpu()
        ninja.add_bindings()
    text = "\n".join(ninja.builds)
    assert ("amx" in built, "cpu.amx.cpp.amx.o" in text, "-DGLIDE_FAST_AMX" in text) == (knows,) * 3
    assert "cpu.amx.cpp.o" not in text and "cpu.amx.cpp.avx2.o" not in text


def test_the_wheel_lives_beside_another_owner_of_kernels(wheel: Path, rival: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    run(*PIP, "install", *OFFLINE, "--target", target, wheel, rival, cwd=tmp_path)
    seen = json.loads(look(target, LOOK, tmp_path))
    assert seen["kernels"] == "rival"
    assert Path(seen["glide_fast"]) == target / "glide_fast" / "__init__.py"
    assert Path(seen["glide_fast.kernels"]) == target / "glide_fast" / "kernels" / "__init__.py"
    if COMPILER:
        assert Path(seen["native"]).parent == target / "glide_fast"
        count = (
            "from glide_fast.ops import native; print(native.why_missing(), len(native.load().isas()) > 0)"
        )
        said = look(target, count, tmp_path)
        assert said.split() == ["None", "True"]


def test_an_editable_install_from_anywhere_and_from_its_root(
    tree: Path, rival: Path, quick: dict[str, str], tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    # Borrow what this environment has (a path in a .pth file does not bring that folder's own .pth files along).
    (site / "borrowed.pth").write_text("\n".join(BORROWED) + "\n")
    run(
        python,
        "-m",
        "pip",
        "install",
        "--ignore-installed",
        *OFFLINE,
        rival,
        "-e",
        tree,
        cwd=tmp_path,
        **quick,
    )

    elsewhere = json.loads(run(python, "-c", LOOK, cwd=tmp_path))
    at_root = json.loads(run(python, "-c", LOOK, cwd=tree))
    assert elsewhere["kernels"] == "rival"
    for seen in (elsewhere, at_root):
        assert Path(seen["glide_fast"]) == tree / "glide_fast" / "__init__.py"
        assert Path(seen["glide_fast.kernels"]) == tree / "kernels" / "__init__.py"
        assert (Path(seen["native"]).parent == tree / "glide_fast") if COMPILER else seen["native"] is None
    record = json.loads((tree / "glide_fast" / "_build.json").read_text())
    assert record["native"] is (COMPILER is not None)


@pytest.mark.parametrize("how", ["CXX names nothing", "nothing on PATH"])
def test_without_a_compiler_the_install_succeeds_and_says_why(tree: Path, tmp_path: Path, how: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {"CXX": "/nonexistent/g++"} if how == "CXX names nothing" else {"PATH": str(empty)}
    wheel = build_wheel(tree, tmp_path, **environment)
    record = record_in(wheel)
    assert record["native"] is False
    assert "no C++ compiler" in record["why_not"] and "apt install g++" in record["why_not"]
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]

    target = tmp_path / "site"
    run(*PIP, "install", *OFFLINE, "--target", target, wheel, cwd=tmp_path)
    said = look(target, "from glide_fast import env; print(env.report())", tmp_path)
    assert "missing: the native library was not built: no C++ compiler" in said
    assert "not kept: it was not built: no C++ compiler" in said


def test_a_compiler_that_fails_leaves_a_record_and_no_library(tree: Path, tmp_path: Path) -> None:
    """A compiler that answers --version and then refuses every file, as one too old for C++17 would."""
    broken = tmp_path / "broken-g++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit 0\necho "no such standard" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    record = record_in(build_wheel(tree, tmp_path, CXX=str(broken)))
    assert record["native"] is False
    assert "compilation failed" in record["why_not"] and "no such standard" in record["why_not"]


def test_the_source_distribution_can_be_built_from(tree: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, tree, cwd=tmp_path)
    (archive,) = tmp_path.glob("glide_fast-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {path.relative_to(tree).as_posix() for path in (tree / "csrc").rglob("*") if path.is_file()}
    assert wanted | {"kernels/__init__.py", "setup.py", "constraints.txt", "tests/conftest.py"} <= names
    assert not [name for name in names if name.endswith(".so")]
