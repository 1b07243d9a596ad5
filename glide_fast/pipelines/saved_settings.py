"""What a pipeline's settings may be in its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glide_fast.errors import invalid
from glide_fast.pipelines.options import DECLARED, DEFAULTS


def check_settings(settings: Mapping[str, Any]) -> None:
    """InvalidInputError naming the first setting that no call could use, or no JSON file can hold.

    Settings that calls do not read may be anything.
    """
    for name in DEFAULTS:
        check = DECLARED[name].check
        if name not in settings or check is None:
            continue
        value = settings[name]
        check(name, value)
        if not _has_json_type(value):
            raise invalid(name, value, "a number, text, list or None of Python's own")


def _has_json_type(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_has_json_type, value))
    return value is None or isinstance(value, (int, float, str))
