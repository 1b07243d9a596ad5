"""Atomic writing: what is under the final name after success, failure, a kill and a race."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from glide_fast.checkpoints import atomic, atomic_directory, atomic_write, write_text
from glide_fast.checkpoints.atomic import current_directory, read_unchanged
from glide_fast.checkpoints.exchange import exchange
from glide_fast.errors import CheckpointError, InvalidInputError

ROOT = Path(__file__).parent.parent.parent


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_a_new_file_and_nothing_else(tmp_path):
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
        assert temporary.suffix == ".txt"
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


def test_new_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").touch()
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_new_directory_has_ordinary_permissions_whatever_a_library_chose(tmp_path):
    """Weights are written by a library that makes its files readable by nobody else."""
    old = os.umask(0o026)
    try:
        (tmp_path / "ordinary").touch()
        (tmp_path / "ordinary directory").mkdir()
        with atomic_directory(tmp_path / "model") as temporary:
            (temporary / "sub").mkdir(mode=0o700)
            os.close(os.open(temporary / "sub" / "a", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(old)
    assert modes(tmp_path, "model/sub/a") == modes(tmp_path, "ordinary")
    assert modes(tmp_path, "model", "model/sub") == modes(tmp_path, "ordinary directory") * 2


def test_a_replaced_directory_keeps_its_own_permissions(tmp_path):
    (tmp_path / "model").mkdir(mode=0o700)
    with atomic_directory(tmp_path / "model") as temporary:
        (temporary / "a").touch()
    assert modes(tmp_path, "model") == [0o700]


def modes(folder: Path, *paths: str) -> list[int]:
    return [stat.S_IMODE((folder / path).stat().st_mode) for path in paths]


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is a device, a pipe or a socket"):
        write_text(tmp_path / "pipe", "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 7, None, b"bytes"])
@pytest.mark.parametrize("write", [atomic_write, atomic_directory])
def test_paths_that_no_file_can_have(path, write):
    with pytest.raises(InvalidInputError, match="path: got"), write(path):
        pass


def test_replacing_keeps_permissions(tmp_path):
    target = tmp_path / "a.txt"
    target.touch()
    target.chmod(0o640)
    write_text(target, "new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()]
)
def test_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_write(target) as temporary:
        temporary.write_text("hal")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_failed_flush_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_directory_as_file_and_missing_parent(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        write_text(tmp_path, "x")
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "a.txt", "x")


def test_long_name(tmp_path):
    target = tmp_path / ("é" * 120 + ".txt")
    write_text(target, "x")
    assert target.read_text() == "x"


KILLED_FILE = """
import os, signal, sys
from glide_fast.checkpoints.atomic import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("hal")
    os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_DIRECTORY = """
import os, signal, sys
from glide_fast.checkpoints import atomic
real, calls = os.rename, []
def rename(source, target):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(target)
    real(source, target)
os.rename = rename
atomic.exchange = lambda one, other: False
with atomic.atomic_directory(sys.argv[1]) as temporary:
    (temporary / "a.txt").write_text("new")
"""


def run_until_killed(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_killed_writer_leaves_the_old_file_and_the_next_write_tidies_up(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    run_until_killed(KILLED_FILE, str(target))
    assert target.read_text() == "old"
    assert len(names(tmp_path)) == 2  # the scratch directory of the dead process
    write_text(target, "new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_living_writer_is_not_tidied_away(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_write(target) as slow:
        slow.write_text("slow")
        write_text(target, "fast")
        assert target.read_text() == "fast"
        assert slow.read_text() == "slow"
    assert target.read_text() == "slow"
    assert names(tmp_path) == ["a.txt"]


def test_directory_is_replaced_entirely(tmp_path):
    target = tmp_path / "deep" / "model"
    for text in ("one", "two"):
        with atomic_directory(target) as temporary:
            (temporary / f"{text}.txt").write_text(text)
            (temporary / "sub").mkdir()
            (temporary / "sub" / "x").write_text(text)
    assert names(target) == ["sub", "two.txt"]
    assert (target / "sub" / "x").read_text() == "two"
    assert names(target.parent) == ["model"]


def test_failed_directory_leaves_the_old_one(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "a.txt").write_text("old")
    with pytest.raises(ValueError, match="stop"), atomic_directory(target) as temporary:
        (temporary / "a.txt").write_text("new")
        raise ValueError("stop")
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_failed_rename_puts_the_old_directory_back(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "a.txt").write_text("old")
    real, calls = os.rename, []

    def rename(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    with pytest.raises(OSError, match="No space"), atomic_directory(target) as temporary:
        (temporary / "a.txt").write_text("new")
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("rename", [0, 1])
def test_directory_writer_killed_at_either_rename(tmp_path, rename):
    target = tmp_path / "model"
    target.mkdir()
    (target / "a.txt").write_text("old")
    run_until_killed(KILLED_DIRECTORY, str(target), str(rename))
    assert (current_directory(target) / "a.txt").read_text() == "old"
    with atomic_directory(target) as temporary:
        (temporary / "a.txt").write_text("newer")
    assert (current_directory(target) / "a.txt").read_text() == "newer"
    assert names(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the systems that exchange names")
def test_a_directory_that_is_replaced_is_there_at_every_moment(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    real, seen = os.rename, []

    def rename(source: Path, destination: Path) -> None:
        real(source, destination)
        seen.append(target.exists())

    monkeypatch.setattr(os, "rename", rename)
    with atomic_directory(target) as temporary:
        (temporary / "a.txt").write_text("new")
    assert False not in seen
    assert names(target) == ["a.txt"] and names(tmp_path) == ["model"]


def test_where_names_cannot_be_exchanged_nothing_is_changed(tmp_path):
    (tmp_path / "one").mkdir()
    assert not exchange(tmp_path / "one", tmp_path / "missing")
    assert names(tmp_path) == ["one"]


def test_a_directory_that_is_always_replaced_is_an_error_and_one_that_is_not_is_read_once(tmp_path):
    target = tmp_path / "model"
    reads = []

    def read(replace: bool) -> None:
        reads.append(replace)
        if replace:
            with atomic_directory(target):
                pass

    with pytest.raises(CheckpointError, match="was replaced 10 times while it was read"):
        read_unchanged(target, lambda: read(True))
    assert len(reads) == 10
    read_unchanged(target, lambda: read(False))
    assert len(reads) == 11

    def damaged() -> None:
        reads.append(False)
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        read_unchanged(target, damaged)
    assert len(reads) == 12


def test_directory_over_a_file(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError, match="is a file"), atomic_directory(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "a file"


def test_many_writers_at_once(tmp_path):
    """Every version that stands under the final name, at any time, is one writer's whole text."""
    file, folder = tmp_path / "a.txt", tmp_path / "model"
    failures: list[BaseException] = []

    def write(letter: str) -> None:
        try:
            for _ in range(5):
                write_text(file, letter * 10_000)
                with atomic_directory(folder) as temporary:
                    (temporary / "a.txt").write_text(letter)
                    (temporary / "b.txt").write_text(letter)
                text = file.read_text()
                assert len(text) == 10_000
                assert len(set(text)) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (folder / "a.txt").read_text() == (folder / "b.txt").read_text()
    assert names(tmp_path) == ["a.txt", "model"]
