"""The folders of results in the repository, one for each device."""

from __future__ import annotations

import re
from pathlib import Path

from glide_fast.bench.provenance import device_name

RESULTS = Path(__file__).resolve().parent / "results"


def slug(name: str) -> str:
    """``name`` as a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def results_folder(device: str) -> Path:
    """Where the results of this device lie."""
    return RESULTS / slug(device_name(device))
