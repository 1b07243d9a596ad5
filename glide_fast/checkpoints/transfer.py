"""One file over HTTP into a `.part` file: checked, retried and resumable (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm.auto import tqdm

from glide_fast.checkpoints.atomic import write_text
from glide_fast.checkpoints.files import looks_like_markup
from glide_fast.errors import DownloadError

_log = logging.getLogger(__name__)

_TIMEOUT = (15.0, 60.0)  # seconds: to connect, and between two pieces
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 60.0  # seconds
_LENGTH_LIMIT = 200  # characters of a library's own words that an error quotes


@dataclasses.dataclass(frozen=True)
class Identity:
    """What tells one version of a remote file from another. `length`: bytes, None where not stated."""

    url: str
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


def _identity_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_identity(part: Path, url: str) -> Identity | None:
    try:
        identity = Identity(**json.loads(_identity_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.url == url else None


def discard(part: Path) -> None:
    """Remove a partial download and what was noted about it."""
    part.unlink(missing_ok=True)
    _identity_path(part).unlink(missing_ok=True)


def forget_identity(part: Path) -> None:
    """Remove the note about a partial download that has been moved to its final name."""
    _identity_path(part).unlink(missing_ok=True)


def transfer(
    url: str, part: Path, *, progress: bool, chunk_size: int, retries: int, backoff: float, description: str
) -> Identity:
    """Bring the file at `url` into `part`, whole, continuing what an earlier process left there.

    A partial file is continued only where the server proves, by a strong ETag or a modification date, that
    the file is still the same; else it is fetched from its start. After a failure that may pass (lost
    connection, time-out, 5xx, short body) it tries again, at most `retries` times in a row without a byte
    gained, waiting `backoff` seconds, then twice as long each time.

    Returns the identity of what was fetched. Raises DownloadError; except where the answer was not the file
    at all, what has arrived stays in `part` for the next attempt, also on KeyboardInterrupt.
    """
    failures = 0
    furthest = _size(part)
    while True:
        try:
            return _attempt(url, part, progress=progress, chunk_size=chunk_size, description=description)
        except _Transient as problem:
            reached = _size(part)
            failures = 0 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures > retries:
                kept = f"; {reached} bytes are kept in {part} and will be continued" if reached else ""
                raise DownloadError(f"{url} could not be downloaded: {problem}{kept}") from problem.__cause__
            pause = backoff * 2 ** max(failures - 1, 0)
            pause = min(max(pause, problem.wait or 0.0), _LONGEST_WAIT)
            _log.warning("%s: %s; trying again in %.0f s", description, problem, pause)
            time.sleep(pause)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _attempt(url: str, part: Path, *, progress: bool, chunk_size: int, description: str) -> Identity:
    known = _read_identity(part, url)
    have = _size(part) if known is not None and known.validator is not None else 0
    # Weights do not compress, and Content-Length must count the file's own bytes.
    headers = {"Accept-Encoding": "identity"}
    if have and known is not None and known.validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": known.validator}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416 and known is not None:
                if have and _complete_length(response) == have and _same(known, response):
                    return known
                discard(part)
                raise _Transient("the partial file did not match the server's; starting again")
            _check_status(url, response)
            identity, start = _plan(url, response, known, have, part)
            _check_kind(url, response)
            _check_space(url, part, identity, start)
            if start == 0:
                part.unlink(missing_ok=True)
                write_text(_identity_path(part), json.dumps(dataclasses.asdict(identity)))
            _receive(url, response, part, start, identity, progress, chunk_size, description)
            return identity
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise DownloadError(f"{url} could not be downloaded: {error}") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Transient(_network_reason(error)) from error
    except requests.RequestException as error:
        raise DownloadError(f"{url} could not be downloaded: {error}") from error
    except DownloadError:
        raise
    except OSError as error:
        raise _disk_error(url, part, error) from error


def _network_reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off in the middle"
    return f"the connection failed ({str(error)[:_LENGTH_LIMIT]})"


def _disk_error(url: str, part: Path, error: OSError) -> DownloadError:
    if error.errno == errno.ENOSPC:
        return DownloadError(
            f"{url} could not be saved: the disk of {part.parent} is full. {_size(part)} bytes are kept in "
            f"{part.name}; free some space and run again to continue, or choose another cache_dir"
        )
    return DownloadError(f"{url} could not be saved to {part.parent}: {error.strerror or error}")


def _check_status(url: str, response: requests.Response) -> None:
    code = response.status_code
    if code in (200, 206):
        return
    said = f"HTTP status {code} {response.reason or ''}".rstrip()
    if code in _TRANSIENT_STATUS:
        after = response.headers.get("Retry-After", "")
        raise _Transient(said, float(after) if after.isdecimal() else None)
    raise DownloadError(f"{url} could not be downloaded: {said}")


def _stated_length(response: requests.Response) -> int | None:
    stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() else None


def _complete_length(response: requests.Response) -> int | None:
    """The whole file's length in a Content-Range header: ``bytes 5-9/10`` or ``bytes */10``."""
    match = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None


def _same(known: Identity, response: requests.Response) -> bool:
    """Whether no header of a partial answer contradicts what is known of the file."""
    etag = response.headers.get("ETag", known.etag)
    modified = response.headers.get("Last-Modified", known.last_modified)
    length = _complete_length(response)
    return (etag, modified) == (known.etag, known.last_modified) and length in (None, known.length)


def _plan(
    url: str, response: requests.Response, known: Identity | None, have: int, part: Path
) -> tuple[Identity, int]:
    """Which file the answer belongs to, and at which byte of `part` its body starts."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise DownloadError(f"{url} could not be downloaded: the server insists on encoding it ({encoding})")
    if response.status_code == 206:
        first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if known is None or not have or first is None or int(first[1]) != have or not _same(known, response):
            discard(part)
            raise _Transient("the file changed on the server; starting again")
        return known, have
    fresh = Identity(
        url=url,
        length=_stated_length(response),
        etag=response.headers.get("ETag"),
        last_modified=response.headers.get("Last-Modified"),
    )
    return fresh, 0


def _check_kind(url: str, response: requests.Response) -> None:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not _is_page_address(url):
        raise DownloadError(f"{url} gave a web page ({kind}) in place of the file; nothing was saved")


def _is_page_address(url: str) -> bool:
    return urlsplit(url).path.lower().endswith((".html", ".htm", ".xhtml", ".xml", ".svg"))


def _check_space(url: str, part: Path, identity: Identity, start: int) -> None:
    if identity.length is None:
        return
    needed = identity.length - start
    free = shutil.disk_usage(part.parent).free + (_size(part) if start == 0 else 0)
    if needed > free:
        raise DownloadError(
            f"{url} needs {needed} more bytes, and the disk of {part.parent} has {free} free; free some "
            "space or choose another cache_dir"
        )


def _receive(
    url: str,
    response: requests.Response,
    part: Path,
    start: int,
    identity: Identity,
    progress: bool,
    chunk_size: int,
    description: str,
) -> None:
    """Append the body to `part` and check that all of it came."""
    bar = tqdm(
        total=identity.length,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=description,
        disable=not progress,
    )
    with bar, part.open("ab") as file:
        for piece in response.iter_content(chunk_size):
            file.write(piece)
            bar.update(len(piece))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    if identity.length is not None and size < identity.length:
        raise _Transient(f"the body ended after {size} of {identity.length} bytes")
    if identity.length is not None and size > identity.length:
        discard(part)
        raise DownloadError(
            f"{url} gave {size} bytes, more than the {identity.length} it announced; nothing was saved"
        )
    with part.open("rb") as file:
        head = file.read(512)
    if looks_like_markup(head) and not _is_page_address(url):
        discard(part)
        raise DownloadError(f"{url} gave a web page in place of the file; nothing was saved")
