"""Two directories of one file system change names in one step, so that neither name is ever empty."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD


def exchange(one: Path, other: Path) -> bool:
    """Let each have the other's name; False, with nothing changed, where the system or the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "linux":
            return library.renameat2(_HERE, names[0], _HERE, names[1], _SWAP) == 0
        if sys.platform == "darwin":
            return library.renamex_np(*names, _SWAP) == 0
    except (OSError, AttributeError, TypeError):  # no such function, and on Windows no such library
        pass
    return False
