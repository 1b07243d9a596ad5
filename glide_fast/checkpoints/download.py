"""Fetching the released weights, and any other file, into a checked cache that works offline."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from glide_fast.caches import default_cache_dir
from glide_fast.checkpoints.address import Address, parse_address
from glide_fast.checkpoints.files import read_state_dict
from glide_fast.checkpoints.paths import checked_path, open_regular, require_regular
from glide_fast.checkpoints.record import Record, file_sha256, read_record, record_path, write_record
from glide_fast.checkpoints.sidecars import sidecar
from glide_fast.checkpoints.signature import HEAD, error_page
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

    Two processes that ask at once download once. An interrupted download leaves `<file>.glide_fast.part`, which the next
    call continues where the server can prove that the file is still the same. Nothing that is incomplete, a web page or
    an error in JSON ever stands under the final name; where the server states no length, the structure of
    torch and safetensors files shows whether they are whole, and other files cannot be judged.

    Args:
        url: http or https; its last part names the file in the cache. A user and password in it are used, and neither they nor
            its query are printed or written anywhere.
        progress: show a bar.
        cache_dir: where to keep it; default :func:`default_cache_dir`.
        chunk_size: bytes per read.
        sha256: what the file must hash to, 64 hexadecimal digits. The file itself is hashed at every call, about a second for a
            gigabyte. Without it the hash of the first download is remembered in `<file>.glide_fast.json`, the
            file is hashed where its length or time stamp has changed, and a later download that differs is refused.
        force: download again even where cached, and accept that the file has changed (`sha256` still binds).
        retries: see :func:`glide_fast.checkpoints.transfer.transfer`, as for ``backoff``.
        backoff: seconds.

    Raises:
        InvalidInputError: for an argument that is not accepted.
        DownloadError: the download failed, or the file does not have the expected hash.
    """
    address = parse_address(url)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise invalid("chunk_size", chunk_size, "a whole number of bytes >= 1")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise invalid("retries", retries, "a whole number >= 0")
    if not isinstance(backoff, (int, float)) or not 0 <= backoff < float("inf"):
        raise invalid("backoff", backoff, "a number of seconds >= 0")
    wanted = _checked_sha256(sha256)
    file = _cache_folder(cache_dir) / address.name
    _require_usable(file)

    # A file under its final name is whole, so reading the cache needs no lock, and the cache may be
    # read-only.
    if not force and _cached(file, address, wanted):
        return str(file)
    lock = FileLock(sidecar(file, "lock"))
    with _using_cache(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        if force or not _cached(file, address, wanted):
            with _using_cache(file.parent):
                _download(
                    address,
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


def _cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    argument = "cache_dir" if cache_dir is not None else "GLIDE_FAST_CACHE"
    directory = cache_dir if cache_dir is not None else default_cache_dir()
    try:
        return checked_path(directory, argument).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user, or no working directory any more
        raise invalid(argument, os.fspath(directory), f"a directory ({error})") from None


@contextlib.contextmanager
def _using_cache(folder: Path) -> Iterator[None]:
    try:
        yield
    except DownloadError:
        raise
    except (OSError, NotImplementedError) as error:  # the latter for file systems without locks
        reason = getattr(error, "strerror", None) or error
        raise DownloadError(
            f"cache_dir {folder} cannot be written to ({reason}); choose another, or set GLIDE_FAST_CACHE"
        ) from error


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise invalid("sha256", sha256, "64 hexadecimal digits, or None")
    return sha256.lower()


def _require_usable(file: Path) -> None:
    """Refuse to read from, or to replace, anything under the final name that is not a file."""
    with _reading(file), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        require_regular(file)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{file}, where the download would be kept, cannot be read ({error.strerror or error}); remove it, or "
            "choose another cache_dir"
        ) from error


def _cached(file: Path, address: Address, wanted: str | None) -> bool:
    """Whether `file` exists and is the downloaded one; a file put there by hand, without a record, is accepted."""
    with _reading(file), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return _serves(file, address, wanted)
    return False


def _serves(file: Path, address: Address, wanted: str | None) -> bool:
    """:func:`_cached`, of a file that is there."""
    record = read_record(file)
    if record is None:
        with open_regular(file) as stream:
            head = stream.read(HEAD)
        if not head or error_page(head, file.name) is not None:
            return False
        record = _describe(file, address, etag=None, last_modified=None)
        write_record(file, record)
        found = record.sha256
    elif wanted is None and record.still_describes(file):
        found = record.sha256
    else:
        found = file_sha256(file)
        if found != record.sha256 and found != wanted:
            # If the recorded hash is the wanted one, the file was damaged after the download; else it is another file.
            if wanted in (None, record.sha256):
                return False
        elif found != record.sha256 or not record.still_describes(file):
            status = file.stat()
            record = dataclasses.replace(
                record, sha256=found, length=status.st_size, modified_ns=status.st_mtime_ns
            )
            write_record(file, record)
    if wanted is not None and found != wanted:
        raise DownloadError(
            f"{file} has sha256 {found}, not the {wanted} asked for (it came from {record.url} on "
            f"{record.date}); force=True downloads it again"
        )
    if wanted is None and record.address != address.digest:
        raise DownloadError(
            f"{file} was downloaded from {record.url}, not from {address.shown}; use another cache_dir, "
            "give its sha256, or force=True"
        )
    return True


def _describe(file: Path, address: Address, etag: str | None, last_modified: str | None) -> Record:
    status = file.stat()
    return Record(
        url=address.shown,
        address=address.digest,
        sha256=file_sha256(file),
        length=status.st_size,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        etag=etag,
        last_modified=last_modified,
        modified_ns=status.st_mtime_ns,
    )


def _download(
    address: Address,
    file: Path,
    wanted: str | None,
    *,
    force: bool,
    progress: bool,
    chunk_size: int,
    retries: int,
    backoff: float,
) -> None:
    # Here, because it brings requests, which takes longer to load than all of this package's models, and most never download.
    from glide_fast.checkpoints.transfer import discard, forget_identity, transfer

    part = sidecar(file, "part")
    before = read_record(file)
    identity = transfer(
        address, file, progress=progress, chunk_size=chunk_size, retries=retries, backoff=backoff
    )
    record = _describe(part, address, identity.etag, identity.last_modified)
    if record.length == 0:
        discard(file)
        raise DownloadError(f"{address.shown} gave an empty file; nothing was saved")
    if wanted is not None and record.sha256 != wanted:
        discard(file)
        raise DownloadError(
            f"{address.shown} has sha256 {record.sha256}, not the {wanted} asked for; nothing was saved"
        )
    if wanted is None and not force and before is not None and before.sha256 != record.sha256:
        discard(file)
        raise DownloadError(
            f"{address.shown} is not what it was: on {before.date} it had sha256 {before.sha256} ({before.length} "
            f"bytes), now {record.sha256} ({record.length} bytes). Nothing was saved; pass force=True if you "
            f"trust the change, or remove {record_path(file)}"
        )
    # An old record must not outlive the file it describes, so it goes before the new file comes.
    _remove(record_path(file))
    os.replace(part, file)
    forget_identity(file)
    write_record(file, record)


def _remove(record: Path) -> None:
    """Remove a record; what stands under its name and is no file is none, and stays."""
    if not record.is_dir():
        record.unlink(missing_ok=True)


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
    target_device = _checked_device(device)
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
    return {name: tensor.to(target_device) for name, tensor in state.items()}


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise invalid("device", device, f"a device that torch can use here ({reason})") from error
    return checked
