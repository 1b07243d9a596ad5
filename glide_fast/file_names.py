"""Names that no file can have, and fields in the names of pictures."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from string import Formatter

from glide_fast.errors import invalid

_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
_FIELDS = ("seed", "index")
_WIDTH = re.compile(r"(0?[1-9][0-9]?)?d?")  # of a number, at most 99


def require_name(argument: str, path: Path) -> None:
    """InvalidInputError where no file can have this name."""
    try:
        os.lstat(path)
    except ValueError as error:  # a NUL
        raise invalid(argument, str(path), f"the name of a file ({error})") from error
    except OSError as error:
        if error.errno in _NO_NAME:
            raise invalid(argument, str(path), f"the name of a file ({error.strerror})") from error


def fields_of(pattern: str) -> set[str]:
    """Which of ``{seed}`` and ``{index}``, each perhaps with a width as in ``{index:04d}``, a pattern has.

    Raises:
        ValueError: for any other field, an attribute, an index, a conversion, or another format.
    """
    found = set()
    for _, field, spec, conversion in Formatter().parse(pattern):
        if field is None:
            continue
        if field not in _FIELDS or conversion is not None or not _WIDTH.fullmatch(spec or ""):
            raise ValueError(field)
        found.add(field)
    return found
