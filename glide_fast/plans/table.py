"""The rows that hold here: those of the files of this device, less the ones that were measured with other code or versions.

Files are looked for in this folder (those that ship) and in ``plans`` of the user's cache (what ``glide-fast tune`` wrote,
whose rows go first). ``GLIDE_FAST_PLANS`` names a file, or a folder of files, in place of both; with ``GLIDE_FAST_PLANS=off``
there are none. It is read once, at the first choice of a backend.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from glide_fast.caches import default_cache_dir
from glide_fast.errors import InvalidInputError
from glide_fast.plans.device import Device
from glide_fast.plans.file import PlanFile, Row, read
from glide_fast.plans.sources import source_of, version_of

ENVIRONMENT = "GLIDE_FAST_PLANS"
OFF = "off"
SHIPPED = Path(__file__).resolve().parent

_setting: str | None = None
"""What decides which files are used; None before it was read."""


class Measured(NamedTuple):
    """A row that may be used, and the file that it is in."""

    row: Row
    path: Path


class Report(NamedTuple):
    """What became of a file: how many rows it has, how many of them are used, and why others are not."""

    path: Path
    rows: int = 0
    used: int = 0
    why_not: str | None = None

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.path}: not used: {self.why_not or 'it has no rows'}"
        also = f"; not used: {self.why_not}" if self.why_not else ""
        return f"{self.path}: {self.used} of {self.rows} rows are used{also}"


class Table:
    """The rows for one device.

    Attributes:
        files: every file that was looked at, the one that goes first at the end.
        why_not: why there is no file; None where there is one.
    """

    def __init__(
        self, device: Device, found: Mapping[tuple[str, str], Measured], files: tuple[Report, ...]
    ) -> None:
        self.device, self.files = device, files
        self.why_not = None if files else f"no file for this device, {device}"
        self._rows: dict[str, dict[str, Measured]] = {}
        for (op, call), measured in found.items():
            self._rows.setdefault(op, {})[call] = measured

    def rows(self, op: str) -> Mapping[str, Measured]:
        """An op's rows by the signature of the call."""
        return self._rows.get(op, {})

    def in_words(self) -> tuple[str, ...]:
        """The files and what of them is used, or why there is none."""
        return tuple(map(str, self.files)) or (str(self.why_not),)

    def why_none(self, op: str) -> str:
        """Why there is no row for a call of an op, in words."""
        if self.why_not is not None:
            return self.why_not
        unused = "; ".join(str(file) for file in self.files if file.used < file.rows or not file.rows)
        if self.rows(op):
            return "no row for this call" + (f" ({unused})" if unused else "")
        return f"no row for {op}" + (f" ({unused})" if unused else "")


def setting() -> str:
    """What ``GLIDE_FAST_PLANS`` said when it was read first; empty where it is not set."""
    global _setting
    if _setting is None:
        _setting = os.environ.get(ENVIRONMENT, "").strip()
    return _setting


def change_setting(to: str | None) -> str | None:
    """Use other files from now on; None reads the environment again. Returns what was in use.

    Choices that were made stay: :func:`glide_fast.ops.backends.plans_from` forgets them too.
    """
    global _setting
    before, _setting = _setting, to
    _table.cache_clear()
    return before


def own_file(device: Device) -> Path:
    """Where ``glide-fast tune`` writes what it measures, unless it is told otherwise."""
    return Path(default_cache_dir()) / "plans" / device.file


def table_of(device: Device) -> Table:
    """The rows for a device.

    Raises:
        InvalidInputError: ``GLIDE_FAST_PLANS`` names what is no file of plans.
    """
    return _table(device, setting())


@functools.cache
def _table(device: Device, chosen: str) -> Table:
    if chosen.lower() == OFF:
        table = Table(device, {}, ())
        table.why_not = f"{ENVIRONMENT}={OFF}"
        return table
    if chosen:
        named = Path(chosen)
        if not os.path.exists(named):  # where it cannot be looked at, Path.exists raises
            raise InvalidInputError(
                f"{ENVIRONMENT}: got {chosen!r}, which does not exist; accepted: a file that glide-fast tune wrote, a folder "
                f"of them, or {OFF}"
            )
        places = [named / device.file] if named.is_dir() else [named]
    else:
        places = [SHIPPED / device.file, own_file(device)]
    found: dict[tuple[str, str], Measured] = {}
    reports = []
    for path in places:
        if not os.path.exists(path):
            continue
        try:
            file = read(path, ENVIRONMENT)
        except InvalidInputError as error:
            if chosen:
                raise
            reports.append(Report(path, why_not=str(error).partition("accepted: ")[2] or str(error)))
            continue
        usable, report = _usable(path, file, device)
        found.update(usable)
        reports.append(report)
    return Table(device, found, tuple(reports))


def _usable(path: Path, file: PlanFile, device: Device) -> tuple[dict[tuple[str, str], Measured], Report]:
    if file.device != device:
        elsewhere = f"it was measured on {file.device}, and this is {device}"
        return {}, Report(path, len(file.rows), 0, elsewhere)
    found: dict[tuple[str, str], Measured] = {}
    reasons: Counter[str] = Counter()
    for row in file.rows:
        reason = why_stale(row, file.versions)
        if reason is None:
            found[row.op, row.call] = Measured(row, path)
        else:
            reasons[reason] += 1
    words = "; ".join(f"{count} of {reason}" for reason, count in reasons.items())
    return found, Report(path, len(file.rows), len(found), words or None)


def why_stale(row: Row, versions: Mapping[str, str]) -> str | None:
    """Why a row's measurement is of something else than what would run; None where it holds."""
    backend = row.fastest.backend
    package = version_of(backend)
    if package is not None and not same_release(versions.get(package, ""), package):
        here = installed(package) or "missing"
        return f"{row.op} {backend}: measured with {package} {versions.get(package, 'unknown')}, and this is {here}"
    if row.sources[backend] != source_of(row.op, backend):
        return f"{row.op} {backend}: its source's hash is another one than when it was measured"
    return None


@functools.cache
def installed(package: str) -> str:
    """A package's version; empty where it is not installed."""
    if package == "torch":
        return str(torch.__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def same_release(version: str, package: str) -> bool:
    """Whether a package's version has the same first two numbers as the one that is installed."""
    return _release(version) == _release(installed(package))


def _release(version: str) -> str:
    """The first two numbers of a version."""
    found = re.match(r"\d+\.\d+", version)
    return found[0] if found else version


def any_rows(op: str, device_type: str) -> bool:
    """Whether there is a row of an op for any device of this type, as torch runs now."""
    if device_type == "cuda":
        devices = [Device.of(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
    elif device_type == "cpu":
        devices = [Device.of(torch.device("cpu"))]
    else:
        return False
    return any(table_of(device).rows(op) for device in set(devices))
