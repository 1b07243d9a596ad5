"""Paths that a caller gives, and files that anyone may have put there: checked before they are opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from glide_fast.errors import invalid

_TYPES = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def checked_path(path: str | os.PathLike[str], argument: str = "path") -> Path:
    """`path` as a Path; InvalidInputError naming `argument` for what no file system can hold."""
    try:
        checked = Path(path)
        encoded = os.fsencode(checked)
    except (TypeError, UnicodeEncodeError):
        encoded = b"\0"
    if b"\0" in encoded:
        raise invalid(argument, path, "a path of characters that file names can hold")
    return checked


def require_regular(file: Path) -> os.stat_result:
    """The status of a regular file, links followed; OSError for anything else (reading a pipe or a device may never end)."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        what = next((name for test, name in _TYPES if test(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {what}, not a file", str(file))
    return status


def open_regular(file: Path) -> BinaryIO:
    """A regular file opened for reading; OSError as :func:`require_regular`."""
    require_regular(file)
    # Without waiting for a writer, should a pipe have taken its name since.
    fd = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file any more", str(file))
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_small(file: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; OSError as :func:`require_regular`, and for a larger one."""
    with open_regular(file) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(file))
    return content
