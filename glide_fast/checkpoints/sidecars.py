"""The files beside a cached download: names that no download can have itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_ENDINGS = {
    "record": ".glide_fast.json",
    "part": ".glide_fast.part",
    "identity": ".glide_fast.part.json",
    "lock": ".glide_fast.lock",
}
LONGEST = max(map(len, _ENDINGS.values()))
"""Characters that :func:`sidecar` adds at most."""


def sidecar(file: Path, purpose: Literal["record", "part", "identity", "lock"]) -> Path:
    """The path of a file beside the download `file`, by its `purpose`.

    "record": the hash of the complete download; "part": the part that has arrived; "identity": the remote file that the part is
    of; "lock": a lock for other processes.
    """
    return file.with_name(file.name + _ENDINGS[purpose])


def is_sidecar(name: str) -> bool:
    """Whether a name is reserved for :func:`sidecar`; no ending is the end of another, so each belongs to one file."""
    return name.lower().endswith(tuple(_ENDINGS.values()))
