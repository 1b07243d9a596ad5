"""Checks, before any work, that files can be read and written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.file_names import require_name


def read(argument: str, file: Path, accepted: str, limit: int | None = None) -> bytes:
    """The content of a file, or of a pipe that the shell opened, as in ``--prompts <(...)``.

    Raises InvalidInputError for what cannot be read or has more than ``limit`` bytes, and for what would keep its reader waiting
    for ever, such as a named pipe.
    """
    require_file(argument, file, accepted)
    try:
        with file.open("rb") as stream:
            content = stream.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise invalid(argument, str(file), f"{accepted} ({error.strerror})") from error
    if limit is not None and len(content) > limit:
        raise invalid(argument, str(file), f"{accepted} (it has more than {limit:,} bytes)")
    return content


def require_file(argument: str, file: Path, accepted: str) -> None:
    """InvalidInputError if the path exists and is neither a file, nor a directory, nor a pipe that the shell opened."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return  # reading it raises an error that says why
    opened_by_the_shell = stat.S_ISFIFO(mode) and not os.path.lexists(os.path.realpath(file))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or opened_by_the_shell):
        raise invalid(argument, str(file), f"{accepted} (it is {_sort(mode)})")


def require_free_files(argument: str, files: Iterable[Path], overwrite: bool) -> None:
    """InvalidInputError if a file exists (without ``overwrite``) or cannot be written."""
    existing = []
    for file in files:
        require_name(argument, file)
        target = Path(os.path.realpath(file))
        if target.exists():
            mode = target.stat().st_mode
            if not stat.S_ISREG(mode):
                raise invalid(argument, str(file), f"the name of a file (it is {_sort(mode)})")
            existing.append(file)
        elif (
            file.is_symlink()
        ):  # to a file that is yet to be written, in a directory that is perhaps not there
            require_writable(argument, target.parent, create=False)
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise InvalidInputError(
            f"{argument}: {existing[0]}{more} exists; accepted: another name, or --overwrite"
        )


def require_writable(argument: str, directory: Path, *, create: bool) -> None:
    """InvalidInputError if no file can be written to a directory; with ``create`` it need not exist yet."""
    present = directory
    while create and not present.exists() and present != present.parent:
        present = present.parent
    if not present.is_dir():
        raise invalid(argument, str(directory), "a place in an existing directory")
    if not os.access(present, os.W_OK | os.X_OK):
        raise invalid(argument, str(directory), "a directory that can be written to")


def _sort(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
