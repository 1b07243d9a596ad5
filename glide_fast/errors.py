"""The errors a user of glide_fast can meet, and the exit code each gives the command line.

Every one of them is raised before work starts or after everything on disk has been left as it was, and says which
argument (or file) is wrong, its value, and the accepted values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar


class GlideFastError(Exception):
    """Base of every error that glide_fast raises on purpose."""

    exit_code: ClassVar[int] = 1


class InvalidInputError(GlideFastError, ValueError):
    """An argument has a value that is not accepted; see :func:`invalid`. The message begins with the argument's name and a colon.

    Attributes:
        listed: names of further arguments in the message, each with a colon after it.
    """

    exit_code: ClassVar[int] = 2
    listed: tuple[str, ...] = ()


class CheckpointError(GlideFastError, ValueError):
    """A checkpoint is missing, truncated, of another program, or does not fit the model."""

    exit_code: ClassVar[int] = 3


class DownloadError(GlideFastError, OSError):
    """A download failed or delivered something other than the file."""

    exit_code: ClassVar[int] = 4


class BackendError(GlideFastError, RuntimeError):
    """A backend was forced that cannot run here; the message holds its reason."""

    exit_code: ClassVar[int] = 5


class OutOfMemoryError(GlideFastError, MemoryError):
    """Not even one image fits into the memory of the device."""

    exit_code: ClassVar[int] = 6


class ReentrantCallError(GlideFastError, RuntimeError):
    """A call would wait for itself: it comes from a callback of a running one, or would wait for one that waits for it."""


def invalid(argument: str, given: object, accepted: str) -> InvalidInputError:
    """Build (not raise) the error for a bad argument.

    >>> str(invalid("guidance_scale", -1.0, "a number >= 0"))
    'guidance_scale: got -1.0; accepted: a number >= 0'
    """
    try:
        text = repr(given)
    except Exception:  # integers of thousands of digits have none, and any class may have a faulty one
        text = f"a value of type {type(given).__name__}"
    if len(text) > 200:
        text = text[:197] + "..."
    return InvalidInputError(f"{argument}: got {text}; accepted: {accepted}")


@contextmanager
def naming_entries(argument: str, entries: Collection[str]) -> Iterator[None]:
    """Let an InvalidInputError about one of the ``entries`` of a mapping also name ``argument``, which is the mapping.

    >>> with naming_entries("settings", {"guidance_scale"}):
    ...     raise invalid("guidance_scale", -1.0, "a number >= 0")
    Traceback (most recent call last):
    glide_fast.errors.InvalidInputError: settings['guidance_scale']: got -1.0; accepted: a number >= 0
    """
    try:
        yield
    except InvalidInputError as error:
        found = re.match(r"(\w+)(?=(\[[^]]*\])?: )", str(error))
        if found is None or found[1] not in entries:
            raise
        raise InvalidInputError(f"{argument}[{found[1]!r}]{str(error)[found.end() :]}") from error
