"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes

TRIM_EVERY = 1 << 26
"""Bytes to free before it is worth a call."""


def trim() -> None:
    """Have the C library return freed memory, where it would keep it for itself (glibc).

    It keeps blocks of up to 32 MB, as most weights are: converting a model would take twice its memory although each weight is
    freed before the next is converted.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library
        return
