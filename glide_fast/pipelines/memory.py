"""The peak of memory of a call."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def start_measuring(device: torch.device) -> None:
    """Start a new measurement of the peak on a GPU, by resetting torch's peak statistics. On a CPU it cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak; None where the system does not report it.

    On a GPU the most that torch had allocated since :func:`start_measuring`; elsewhere the largest resident set since the
    process started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _peak_resident()


def _peak_resident() -> int | None:
    # Not by getrusage, which reports the peak of the program that started this one if that was higher.
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    try:
        import resource
        import sys
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
