"""One file over HTTP into a partial file: checked, retried and resumable (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import time
from http.client import HTTPException
from pathlib import Path

import requests
from tqdm.auto import tqdm
from urllib3.exceptions import HTTPError

from glide_fast.checkpoints.address import Address, without_secrets
from glide_fast.checkpoints.atomic import write_text
from glide_fast.checkpoints.json_text import MAX_BYTES, parse_json
from glide_fast.checkpoints.paths import read_small
from glide_fast.checkpoints.sidecars import sidecar
from glide_fast.checkpoints.signature import HEAD, error_page, error_type, missing_end
from glide_fast.errors import DownloadError

_log = logging.getLogger(__name__)

_TIMEOUT = (15.0, 60.0)  # seconds: to connect, and between two pieces
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0  # seconds
_LENGTH_LIMIT = 200  # characters of a library's own words that an error quotes


@dataclasses.dataclass(frozen=True)
class Identity:
    """The properties that differ between versions of a remote file. `length`: bytes, None where the server does not state it.

    `address` is the digest of the file's :class:`~glide_fast.checkpoints.address.Address`.
    """

    address: str
    length: int | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """What may stand in If-Range: a strong ETag or a date; None where the server gives neither."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class _Transient(Exception):
    """A failure worth another attempt; `wait` is how many seconds the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def _read_identity(file: Path) -> Identity | None:
    """What was noted about the first part of a download; None where nothing was, or nothing that can be used."""
    try:
        identity = Identity(**parse_json(read_small(sidecar(file, "identity"), MAX_BYTES)))
    except (OSError, ValueError, TypeError):
        return None
    length = identity.length
    well_typed = length is None or (isinstance(length, int) and not isinstance(length, bool) and length >= 0)
    for value in (identity.etag, identity.last_modified):  # which are sent as headers
        well_typed &= value is None or (isinstance(value, str) and value.isascii() and value.isprintable())
    return identity if well_typed else None


def discard(file: Path) -> None:
    """Remove the part of a download that has arrived, and the record of the remote file that it is of."""
    sidecar(file, "part").unlink(missing_ok=True)
    forget_identity(file)


def forget_identity(file: Path) -> None:
    """Remove the note about the first part of a download, which has been moved to its final name."""
    sidecar(file, "identity").unlink(missing_ok=True)


def transfer(
    address: Address, file: Path, *, progress: bool, chunk_size: int, retries: int, backoff: float
) -> Identity:
    """Bring the file at `address` into the "part" sidecar of `file`, whole, continuing what an earlier process left there.

    A partial file is continued only where the server proves, by a strong ETag or a modification date, that
    the file is still the same; else it is fetched from its start. After a failure that may pass (lost
    connection, time-out, 5xx, short body) it tries again, at most `retries` times in a row without a byte
    gained, waiting `backoff` seconds, then twice as long each time.

    Returns the identity of the fetched file. Raises DownloadError, which names no user, password or query. A part that can be
    continued is kept for the next attempt, also after KeyboardInterrupt, unless the answer was not the file at all.
    """
    failures = 0
    furthest = _size(file)
    while True:
        try:
            return _attempt(address, file, progress=progress, chunk_size=chunk_size)
        except _Transient as problem:
            reached = _size(file)
            failures = 0 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures > retries:
                kept = _keep(address, file)
                kept = f"; {kept} and will be continued" if kept else ""
                raise DownloadError(f"{address.shown} could not be downloaded: {problem}{kept}") from None
            pause = backoff * 2 ** max(failures - 1, 0)
            pause = min(max(pause, problem.wait or 0.0), _LONGEST_WAIT)
            _log.warning("%s: %s; trying again in %.0f s", file.name, problem, pause)
        time.sleep(pause)


def _size(file: Path) -> int:
    try:
        return sidecar(file, "part").stat().st_size
    except OSError:
        return 0


def _keep(address: Address, file: Path) -> str:
    """Keep the part of a stopped download if it can be continued, else remove it; returns words for the message."""
    known = _read_identity(file)
    if known is not None and known.address != address.digest:
        return ""  # a part of another file, which has not been touched
    size = _size(file)
    if known is None or known.validator is None or not size:
        with contextlib.suppress(OSError):
            discard(file)
        return ""
    return f"{size} bytes are kept in {sidecar(file, 'part')}"


def _attempt(address: Address, file: Path, *, progress: bool, chunk_size: int) -> Identity:
    known = _read_identity(file)
    if known is not None and known.address != address.digest:
        known = None
    have = _size(file) if known is not None and known.validator is not None else 0
    # Weights do not compress, and Content-Length must count the file's own bytes.
    headers = {"Accept-Encoding": "identity"}
    if have and known is not None and known.validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    try:
        with requests.get(address.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416 and known is not None:
                if have and _complete_length(response) == have and _same(known, response):
                    _check_content(address, file, _measured(known, response))
                    return known
                discard(file)
                raise _Transient("the partial file did not match the server's; starting again")
            _check_status(address, response)
            identity, start = _plan(address, response, known, have, file)
            page = error_type(response.headers.get("Content-Type", ""), file.name)
            if page is not None:
                raise DownloadError(f"{address.shown} gave {page} in place of the file; nothing was saved")
            _check_space(address, file, identity, start)
            if start == 0:
                sidecar(file, "part").unlink(missing_ok=True)
                write_text(sidecar(file, "identity"), json.dumps(dataclasses.asdict(identity)))
            _receive(response, file, start, identity, progress, chunk_size)
            _check_content(address, file, identity)
            return identity
    # What libraries say, and print as the cause of an error, quotes the whole address.
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise _refused(address, error) from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Transient(_network_reason(error)) from None
    except (requests.RequestException, HTTPError, HTTPException, ValueError) as error:
        raise _refused(address, error) from None
    except DownloadError:
        raise
    except OSError as error:
        raise _disk_error(address, file, error) from None


def _refused(address: Address, error: Exception) -> DownloadError:
    reason = without_secrets(str(error))[:_LENGTH_LIMIT]
    return DownloadError(f"{address.shown} could not be downloaded: {reason}")


def _network_reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off in the middle"
    return f"the connection failed ({without_secrets(str(error))[:_LENGTH_LIMIT]})"


def _disk_error(address: Address, file: Path, error: OSError) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kept = _keep(address, file)
        kept = (
            f"{kept}; free some space and run again to continue"
            if kept
            else "nothing is kept; free some space"
        )
        return DownloadError(
            f"{address.shown} could not be saved: the disk of {file.parent} is full. {kept}, or choose another cache_dir"
        )
    return DownloadError(f"{address.shown} could not be saved to {file.parent}: {error.strerror or error}")


def _check_status(address: Address, response: requests.Response) -> None:
    code = response.status_code
    if code in (200, 206):
        return
    said = f"HTTP status {code} {_printable(response.reason or '')}".rstrip()
    if code in _TRANSIENT_STATUS:
        after = response.headers.get("Retry-After", "")
        raise _Transient(said, float(after) if _number(after) else None)
    raise DownloadError(f"{address.shown} could not be downloaded: {said}")


def _printable(text: str) -> str:
    return "".join(character for character in text[:_LENGTH_LIMIT] if character.isprintable())


def _number(text: str) -> re.Match[str] | None:
    """Decimal digits, few enough for the length of a file."""
    return re.fullmatch(r"[0-9]{1,18}", text)


def _stated_length(address: Address, response: requests.Response) -> int | None:
    stated = response.headers.get("Content-Length")
    if stated is None:
        return None
    lengths = {length.strip() for length in stated.split(",")}  # repeated, it is joined by commas
    if len(lengths) > 1 or not _number(min(lengths)):
        said = _printable(stated[:40])
        raise DownloadError(
            f"{address.shown} could not be downloaded: the server states a length of {said!r} bytes"
        )
    return int(min(lengths))


def _complete_length(response: requests.Response) -> int | None:
    """The whole file's length in a Content-Range header: ``bytes 5-9/10`` or ``bytes */10``."""
    match = re.fullmatch(
        r"bytes (?:[0-9]+-[0-9]+|\*)/([0-9]{1,18})", response.headers.get("Content-Range", "").strip()
    )
    return int(match[1]) if match else None


def _same(known: Identity, response: requests.Response) -> bool:
    """Whether a partial answer is of the same version of the file: no header contradicts its known properties."""
    etag = response.headers.get("ETag", known.etag)
    modified = response.headers.get("Last-Modified", known.last_modified)
    lengths = {_complete_length(response), known.length} - {None}
    return (etag, modified) == (known.etag, known.last_modified) and len(lengths) < 2


def _measured(known: Identity, response: requests.Response) -> Identity:
    """What is known of a file, and the length that a partial answer states."""
    return dataclasses.replace(known, length=known.length or _complete_length(response))


def _plan(
    address: Address, response: requests.Response, known: Identity | None, have: int, file: Path
) -> tuple[Identity, int]:
    """Which file the answer belongs to, and at which byte of the part its body starts."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        said = _printable(encoding)
        raise DownloadError(
            f"{address.shown} could not be downloaded: the server insists on encoding it ({said})"
        )
    if response.status_code == 206:
        first = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        if known is None or not have or first is None or int(first[1]) != have or not _same(known, response):
            discard(file)
            raise _Transient("the file changed on the server; starting again")
        return _measured(known, response), have
    fresh = Identity(
        address=address.digest,
        length=_stated_length(address, response),
        etag=response.headers.get("ETag"),
        last_modified=response.headers.get("Last-Modified"),
    )
    return fresh, 0


def _check_space(address: Address, file: Path, identity: Identity, start: int) -> None:
    if identity.length is None:
        return
    needed = identity.length - start
    free = shutil.disk_usage(file.parent).free + (_size(file) if start == 0 else 0)
    if needed > free:
        raise DownloadError(
            f"{address.shown} needs {needed} more bytes, and the disk of {file.parent} has {free} free; free some "
            "space or choose another cache_dir"
        )


def _receive(
    response: requests.Response, file: Path, start: int, identity: Identity, progress: bool, chunk_size: int
) -> None:
    """Append the body to the part."""
    bar = tqdm(
        total=identity.length,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=file.name,
        disable=not progress,
    )
    with bar, sidecar(file, "part").open("ab") as part:
        for piece in response.iter_content(chunk_size):
            part.write(piece)
            bar.update(len(piece))
        part.flush()
        os.fsync(part.fileno())


def _check_content(address: Address, file: Path, identity: Identity) -> None:
    """Check that all of the file came, and that it is the file."""
    part, size = sidecar(file, "part"), _size(file)
    if identity.length is not None and size < identity.length:
        raise _Transient(f"the body ended after {size} of {identity.length} bytes")
    if identity.length is not None and size > identity.length:
        discard(file)
        raise DownloadError(
            f"{address.shown} gave {size} bytes, more than the {identity.length} it announced; nothing was saved"
        )
    with part.open("rb") as stream:
        page = error_page(stream.read(HEAD), file.name)
    if page is not None:
        discard(file)
        raise DownloadError(f"{address.shown} gave {page} in place of the file; nothing was saved")
    missing = missing_end(part)
    if missing is not None and identity.length is None:
        raise _Transient(f"the body ended after {size} bytes, which are no whole file: {missing}")
    if missing is not None:
        discard(file)
        raise DownloadError(f"{address.shown} gave a file that is not whole: {missing}; nothing was saved")
