"""What a download had, remembered beside it, as no hashes of the released weights were published."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

from glide_fast.checkpoints.atomic import write_text


@dataclasses.dataclass(frozen=True)
class Record:
    """One download: whence, when and what. `length` is in bytes, `date` is ISO 8601 in UTC.

    `modified_ns` is the file's own time stamp when it was hashed: while it and the length stand, the file
    need not be hashed again.
    """

    url: str
    sha256: str
    length: int
    date: str
    etag: str | None
    last_modified: str | None
    modified_ns: int

    def still_describes(self, file: Path) -> bool:
        """Whether `file` is untouched since it was recorded, judged by length and time stamp."""
        status = file.stat()
        return status.st_size == self.length and status.st_mtime_ns == self.modified_ns


def record_path(file: Path) -> Path:
    """The JSON file beside a download."""
    return file.with_name(file.name + ".json")


def read_record(file: Path) -> Record | None:
    """The record of `file`; None where there is none, or none that can be understood."""
    try:
        fields = json.loads(record_path(file).read_text(encoding="utf-8"))
        record = Record(**fields)
    except (OSError, ValueError, TypeError):
        return None
    well_typed = (
        isinstance(record.sha256, str) and isinstance(record.length, int) and isinstance(record.url, str)
    )
    return record if well_typed else None


def write_record(file: Path, record: Record) -> None:
    """Remember `record`, where the cache can be written to; a shared one may be read-only."""
    with contextlib.suppress(OSError):
        write_text(record_path(file), json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def file_sha256(file: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
