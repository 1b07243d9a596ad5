"""What a download had, remembered beside it, as no hashes of the released weights were published."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

from glide_fast.checkpoints.atomic import write_text
from glide_fast.checkpoints.json_text import MAX_BYTES, parse_json
from glide_fast.checkpoints.paths import open_regular, read_small
from glide_fast.checkpoints.sidecars import sidecar


@dataclasses.dataclass(frozen=True)
class Record:
    """One download: whence, when and what. `length` is in bytes, `date` is ISO 8601 in UTC.

    `url` and `address` are the `shown` and the `digest` of an :class:`~glide_fast.checkpoints.address.Address`.
    `modified_ns` is the file's own time stamp when it was hashed: while it and the length stand, the file
    need not be hashed again.
    """

    url: str
    address: str
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
    return sidecar(file, "record")


def read_record(file: Path) -> Record | None:
    """The record of `file`; None where there is none, or none that can be understood."""
    try:
        record = Record(**parse_json(read_small(record_path(file), MAX_BYTES)))
    except (OSError, ValueError, TypeError):
        return None
    hashes = (record.address, record.sha256)
    sizes = (record.length, record.modified_ns)
    texts = (record.url, record.date)
    optional = (record.etag, record.last_modified)
    well_typed = (
        all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
        and all(isinstance(value, int) and not isinstance(value, bool) for value in sizes)
        and all(isinstance(value, str) for value in texts)
        and all(value is None or isinstance(value, str) for value in optional)
    )
    return record if well_typed else None


def write_record(file: Path, record: Record) -> None:
    """Remember `record`, where the cache can be written to; a shared one may be read-only."""
    with contextlib.suppress(OSError):
        write_text(record_path(file), json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def file_sha256(file: str | os.PathLike[str]) -> str:
    """The SHA-256 of a regular file, in lower-case hexadecimal; about a second for a gigabyte.

    Other threads run meanwhile. Raises OSError.
    """
    digest = hashlib.sha256()
    with open_regular(Path(file)) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
