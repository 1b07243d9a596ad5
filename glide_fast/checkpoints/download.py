"""Fetching the released weights, and any other file, into a checked cache that works offline."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs
import torch
from filelock import FileLock
from torch import Tensor

from glide_fast.checkpoints.files import looks_like_markup, read_state_dict
from glide_fast.checkpoints.record import Record, file_sha256, read_record, record_path, write_record
from glide_fast.checkpoints.transfer import discard, forget_identity, transfer
from glide_fast.errors import CheckpointError, DownloadError, invalid

_RELEASE = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021/"

MODEL_PATHS: dict[str, str] = {
    "base": _RELEASE + "base.pt",
    "upsample": _RELEASE + "upsample.pt",
    "base-inpaint": _RELEASE + "base_inpaint.pt",
    "upsample-inpaint": _RELEASE + "upsample_inpaint.pt",
    "clip/image-enc": _RELEASE + "clip_image_enc.pt",
    "clip/text-enc": _RELEASE + "clip_text_enc.pt",
}
"""The released "GLIDE (filtered)" weights: official name -> address."""


def default_cache_dir() -> str:
    """Where downloads go by default: GLIDE_FAST_CACHE, else this platform's user cache directory."""
    return os.environ.get("GLIDE_FAST_CACHE") or platformdirs.user_cache_dir("glide_fast", appauthor=False)


def fetch_file_cached(
    url: str,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    chunk_size: int = 4096,
    *,
    sha256: str | None = None,
    force: bool = False,
    retries: int = 4,
    backoff: float = 1.0,
) -> str:
    """The local path of the file at `url`, downloaded the first time; afterwards no network is needed.

    The first four arguments are those of ``glide_text2im.download.fetch_file_cached``.

    url: http or https; its last part names the file in the cache.
    progress: show a bar.
    cache_dir: where to keep it; default :func:`default_cache_dir`.
    chunk_size: bytes per read.
    sha256: what the file must hash to, 64 hexadecimal digits. Without it the hash of the first download is
    remembered in
        `<file>.json`, and a later download that differs is refused.
    force: download again even where cached, and accept that the file has changed (`sha256` still binds).
    retries, backoff: see :func:`glide_fast.checkpoints.transfer.transfer`.

    Two processes that ask at once download once. An interrupted download leaves `<file>.part`, which the next
    call continues. Nothing that is incomplete, or a web page, ever stands under the final name.

    Raises InvalidInputError for arguments, DownloadError where the file cannot be had or is not what it
    should be.
    """
    name = _checked_name(url)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise invalid("chunk_size", chunk_size, "a whole number of bytes >= 1")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise invalid("retries", retries, "a whole number >= 0")
    if not isinstance(backoff, (int, float)) or not 0 <= backoff < float("inf"):
        raise invalid("backoff", backoff, "a number of seconds >= 0")
    wanted = _checked_sha256(sha256)
    folder = Path(cache_dir if cache_dir is not None else default_cache_dir()).expanduser().absolute()
    file = folder / name

    # A file under its final name is whole, so reading the cache needs no lock, and the cache may be
    # read-only.
    if not force and _cached(file, url, wanted):
        return str(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file.with_name(name + ".lock"))
        lock.acquire()
    except OSError as error:
        raise DownloadError(
            f"cache_dir {folder} cannot be written to ({error.strerror or error}); choose another, "
            "or set GLIDE_FAST_CACHE"
        ) from error
    try:
        if force or not _cached(file, url, wanted):
            _download(
                url,
                file,
                wanted,
                force=force,
                progress=progress,
                chunk_size=chunk_size,
                retries=retries,
                backoff=backoff,
            )
    finally:
        lock.release()
    return str(file)


def _checked_name(url: str) -> str:
    accepted = "an http:// or https:// address that ends in a file name"
    if not isinstance(url, str):
        raise invalid("url", url, accepted)
    parts = urlsplit(url)
    name = unquote(parts.path).rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.netloc or name in ("", ".", "..") or "\\" in name:
        raise invalid("url", url, accepted)
    return name


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise invalid("sha256", sha256, "64 hexadecimal digits, or None")
    return sha256.lower()


def _cached(file: Path, url: str, wanted: str | None) -> bool:
    """Whether `file` is there and is what was downloaded; one put there by hand is taken as it is."""
    if not file.is_file():
        return False
    record = read_record(file)
    if record is None:
        with file.open("rb") as stream:
            head = stream.read(512)
        if not head or looks_like_markup(head):
            return False
        record = _describe(file, url, etag=None, last_modified=None)
        write_record(file, record)
    elif not record.still_describes(file):
        if file_sha256(file) != record.sha256:
            return False
        write_record(file, _describe(file, record.url, record.etag, record.last_modified, date=record.date))
    if wanted is not None and record.sha256 != wanted:
        raise DownloadError(
            f"{file} has sha256 {record.sha256}, not the {wanted} asked for (it came from {record.url} on "
            f"{record.date}); force=True downloads it again"
        )
    if wanted is None and record.url != url:
        raise DownloadError(
            f"{file} was downloaded from {record.url}, not from {url}; use another cache_dir, "
            "give its sha256, or force=True"
        )
    return True


def _describe(
    file: Path, url: str, etag: str | None, last_modified: str | None, *, date: str | None = None
) -> Record:
    status = file.stat()
    return Record(
        url=url,
        sha256=file_sha256(file),
        length=status.st_size,
        date=date or datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        etag=etag,
        last_modified=last_modified,
        modified_ns=status.st_mtime_ns,
    )


def _download(
    url: str,
    file: Path,
    wanted: str | None,
    *,
    force: bool,
    progress: bool,
    chunk_size: int,
    retries: int,
    backoff: float,
) -> None:
    part = file.with_name(file.name + ".part")
    before = read_record(file)
    identity = transfer(
        url,
        part,
        progress=progress,
        chunk_size=chunk_size,
        retries=retries,
        backoff=backoff,
        description=file.name,
    )
    record = _describe(part, url, identity.etag, identity.last_modified)
    if record.length == 0:
        discard(part)
        raise DownloadError(f"{url} gave an empty file; nothing was saved")
    if wanted is not None and record.sha256 != wanted:
        discard(part)
        raise DownloadError(
            f"{url} has sha256 {record.sha256}, not the {wanted} asked for; nothing was saved"
        )
    if wanted is None and not force and before is not None and before.sha256 != record.sha256:
        discard(part)
        raise DownloadError(
            f"{url} is not what it was: on {before.date} it had sha256 {before.sha256} ({before.length} "
            f"bytes), now {record.sha256} ({record.length} bytes). Nothing was saved; pass force=True if you "
            f"trust the change, or remove {record_path(file)}"
        )
    # An old record must not outlive the file it describes, so it goes before the new file comes.
    record_path(file).unlink(missing_ok=True)
    os.replace(part, file)
    forget_identity(part)
    write_record(file, record)


def load_checkpoint(
    checkpoint_name: str,
    device: torch.device | str,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    chunk_size: int = 4096,
    *,
    sha256: str | None = None,
    force: bool = False,
    mmap: bool = True,
) -> dict[str, Tensor]:
    """The state dict of a released model by its official name (a key of :data:`MODEL_PATHS`), on `device`.

    The first five arguments are those of ``glide_text2im.download.load_checkpoint``; `sha256` and `force` are
    those of :func:`fetch_file_cached`, `mmap` that of :func:`read_state_dict`. The file is read with ``weights_only=True``.

    Returns {name: tensor} with the released shapes and dtypes. Raises InvalidInputError for an unknown name
    or a device this machine lacks (before any download), DownloadError, and CheckpointError for a file that
    is not a checkpoint.
    """
    if checkpoint_name not in MODEL_PATHS:
        raise invalid("checkpoint_name", checkpoint_name, "one of " + ", ".join(map(repr, MODEL_PATHS)))
    place = _checked_device(device)
    path = fetch_file_cached(
        MODEL_PATHS[checkpoint_name],
        progress=progress,
        cache_dir=cache_dir,
        chunk_size=chunk_size,
        sha256=sha256,
        force=force,
    )
    try:
        state = read_state_dict(path, mmap=mmap)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. It is the cached {checkpoint_name!r}; force=True downloads it again"
        ) from error
    return {name: tensor.to(place) for name, tensor in state.items()}


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise invalid("device", device, f"a device that torch can use here ({reason})") from error
    return place
