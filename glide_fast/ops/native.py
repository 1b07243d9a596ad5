"""The C++ library `glide_fast._C`, loaded at its first use, and the record that its build left."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # noqa: F401  loads torch's OpenMP runtime first, so that the library shares torch's threads

RECORD = Path(__file__).resolve().parents[1] / "_build.json"


@functools.cache
def build_record() -> dict[str, Any] | None:
    """setup.py's record of the build: compilers, targets, or why there is no library; None if glide_fast was never installed."""
    try:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    try:
        return importlib.import_module("glide_fast._C"), None
    except ModuleNotFoundError:
        record = build_record()
        if record is None:
            return (
                None,
                "the native library was not built: glide_fast runs from its source tree (pip install -e .)",
            )
        return None, f"the native library was not built: {record.get('why_not', 'built for another Python')}"
    except ImportError as error:
        return None, f"the native library does not load: {error}"


def load() -> ModuleType | None:
    """The module `glide_fast._C`, or None; never raises."""
    return _load()[0]


def why_missing() -> str | None:
    """Why :func:`load` returns None; None if it returns the module."""
    return _load()[1]


def why_without(name: str) -> str | None:
    """Why the library has no function or class ``name``; None if it has.

    An editable install keeps its old library when the sources change.
    """
    if (reason := why_missing()) is not None or hasattr(load(), name):
        return reason
    return "the native library is older than the sources: build it again (pip install -e .)"
