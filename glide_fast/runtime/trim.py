"""Returning freed memory to the operating system."""

from __future__ import annotations

import ctypes

TRIM_EVERY = 1 << 26
"""Call :func:`trim` after this many bytes were freed; it takes too long to call it more often."""


def trim() -> None:
    """Make glibc return freed memory to the system; with another C library nothing is done.

    glibc keeps freed blocks of up to 32 MB, and most weights are smaller. Without this, converting a model would take twice its
    memory, although each weight is freed before the next one is converted.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return
