"""Writing a file or a directory so that it is never found half-written under its final name.

Everything is built in a hidden scratch directory beside the target, flushed to the disk, and renamed to the
target. A kill or a full disk leaves the target unchanged. A scratch directory that a killed process left
behind is removed by the next write to the same target. A lock shows whether one is still in use: the
system releases it when its process dies.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from glide_fast.checkpoints.exchange import exchange
from glide_fast.checkpoints.paths import checked_path
from glide_fast.errors import CheckpointError, GlideFastError

if sys.platform != "win32":
    import fcntl

Found = TypeVar("Found")

_READINGS = 10
_MAX_PREFIX = 120  # a file name holds 255 bytes at most; the rest is for the random part


def _lock(fd: int, *, wait: bool) -> bool:
    """Take the advisory lock of an open directory; False where it is taken or the file system has none."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """An open descriptor of a directory, or -1 where directories cannot be opened (Windows)."""
    if sys.platform == "win32":
        yield -1
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _scratch_prefix(target: Path) -> str:
    return "." + target.name.encode()[:_MAX_PREFIX].decode(errors="ignore")


def _remove_abandoned(target: Path) -> None:
    """Remove the scratch directories of `target` whose process is gone."""
    pattern = re.compile(re.escape(_scratch_prefix(target)) + r"\.[0-9a-f]{16}\.tmp")
    for entry in target.parent.iterdir():
        if pattern.fullmatch(entry.name):
            with contextlib.suppress(OSError), _opened(entry) as fd:
                if fd >= 0 and _lock(fd, wait=False):
                    shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A fresh directory beside `target`, locked while in use and removed afterwards."""
    _remove_abandoned(target)
    while True:
        scratch = target.with_name(f"{_scratch_prefix(target)}.{secrets.token_hex(8)}.tmp")
        scratch.mkdir()
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(_opened(scratch))
                _lock(fd, wait=True)
            except FileNotFoundError:
                continue
            if not scratch.exists():
                # Another writer took it for abandoned in the instant between its creation and its lock.
                continue
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return


def _sync(file: Path) -> None:
    """Force a file's bytes out to the disk."""
    fd = os.open(file, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_entries(directory: Path) -> None:
    """Force a directory's entries out to the disk, where the file system can do that."""
    with contextlib.suppress(OSError), _opened(directory) as fd:
        os.fsync(fd)


def _resolved(path: str | os.PathLike[str]) -> Path:
    """The path that a write to `path` reaches: links are followed, so that a link stays a link."""
    return Path(os.path.realpath(checked_path(path)))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a path to write to: in the same file system, with the same name and suffix as `path`, so that
    libraries that choose a format by suffix work. When the block ends well the file is flushed to disk and
    renamed to `path`, keeping the permissions of a file it replaces; when it raises, or the process dies,
    `path` is left as it was.

    Raises OSError where the parent directory is missing or not writable, where `path` is a directory, a device, a pipe
    or a socket (which a rename would replace), and whatever the block raises (a full disk: OSError with errno ENOSPC);
    InvalidInputError for a path that no file can have.

    >>> with atomic_write("grid.png") as temporary:  # doctest: +SKIP
    ...     image.save(temporary)
    """
    target = _resolved(path)
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a directory; a file name is needed")
    if target.exists() and not target.is_file():
        raise OSError(
            f"{path} is a device, a pipe or a socket, which writing would replace; a file name is needed"
        )
    with _scratch(target) as scratch:
        temporary = scratch / target.name
        yield temporary
        try:
            mode = _mode(target)
        except FileNotFoundError:
            # mkdir has applied the process's umask already, which cannot be read without changing it.
            mode = _mode(scratch) & 0o666
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, target)
        _sync_entries(target.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text whole or not at all; see :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _set_aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def current_directory(path: str | os.PathLike[str]) -> Path:
    """Where the content of the directory `path` is now.

    It is `path` itself, except where a file system cannot exchange two directories: there, between the two renames of
    :func:`atomic_directory`, and after a kill in that instant until the next write, it is the previous content, which stands
    beside it under a hidden name. A reader of several files uses :func:`read_unchanged`.
    """
    target = _resolved(path)
    previous = _set_aside(target)
    return previous if not os.path.exists(target) and os.path.isdir(previous) else target


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a directory whole or not at all; an existing one is replaced entirely.

    Yields an empty directory to fill. When the block ends well it is flushed to disk and renamed to `path`;
    when it raises, or the process dies, `path` still has its old content (read it through
    :func:`current_directory`). Parents of `path` are created. What is in it gets the permissions of new files and
    directories, whatever the libraries that wrote it chose; the directory itself keeps those of one it replaces. Raises
    OSError as :func:`atomic_write` does, NotADirectoryError where `path` is a file.
    """
    target = _resolved(path)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{path} is a file; a directory name is needed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(target) as scratch:
        temporary = scratch / "content"
        temporary.mkdir()
        ordinary = _mode(temporary)  # mkdir has applied the process's umask
        yield temporary
        for folder, _, files in os.walk(temporary):
            Path(folder).chmod(ordinary)
            for name in files:
                Path(folder, name).chmod(ordinary & 0o666)
                _sync(Path(folder, name))
            _sync_entries(Path(folder))
        if target.exists():
            temporary.chmod(_mode(target))
        _swap(temporary, target)


def _swap(temporary: Path, target: Path) -> None:
    """Replace `target` by `temporary`; one process at a time does it, so that two writers cannot mix.

    Where the file system can exchange two names, readers find one or the other at any time. Elsewhere there are two renames, and
    between them nothing has the name for an instant; :func:`current_directory` finds the previous content then.
    """
    previous = _set_aside(target)
    with _opened(target.parent) as fd:
        _lock(fd, wait=True)
        if not (target.exists() and exchange(temporary, target)):
            _rename_both(temporary, target, previous)
        _sync_entries(target.parent)
        shutil.rmtree(previous, ignore_errors=True)


def _rename_both(temporary: Path, target: Path, previous: Path) -> None:
    """Move `target`, where it exists, to `previous`, and `temporary` to `target`; or nothing, and OSError."""
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(target, previous)
    try:
        os.rename(temporary, target)
    except OSError:
        if previous.exists():
            os.rename(previous, target)
        raise


def read_unchanged(path: str | os.PathLike[str], read: Callable[[], Found]) -> Found:
    """The result of `read` for the directory `path`; if the directory was replaced meanwhile, `read` is called again.

    So all that was read is of one version. Errors of `read` are raised if the directory was not replaced; CheckpointError is
    raised if it is replaced again and again.
    """
    for _ in range(_READINGS):
        folder = current_directory(path)
        with contextlib.ExitStack() as stack:
            # While the directory is open its inode number is not used again, so that a replacement has another one.
            with contextlib.suppress(OSError):
                stack.enter_context(_opened(folder))
            before = _identity(folder)
            try:
                found = read()
            except (GlideFastError, OSError):
                if _identity(current_directory(path)) == before:
                    raise
                continue
            if _identity(current_directory(path)) == before:
                return found
    raise CheckpointError(
        f"{os.fspath(path)} was replaced {_READINGS} times while it was read; try again later"
    )


def _identity(folder: Path) -> tuple[Path, int, int] | None:
    """Which directory it is; None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return folder, status.st_dev, status.st_ino
