"""A file of plans: what it holds, and the checks that keep anything else from being taken for one.

JSON in UTF-8: ``{"format": 1, "device": {...}, "versions": {...}, "rows": [...]}``. A row says of one call which backend, with
which plan, was fastest, in how many microseconds, what came second, how large the error was, and which sources were compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glide_fast.errors import InvalidInputError
from glide_fast.plans.device import Device

FORMAT = 1
MOST_BYTES = 16 << 20
"""Of a file; one of every call of GLIDE has a few hundred kilobytes."""
MOST_ROWS = 20_000
LONGEST = 2_000
"""Characters of a text."""
LARGEST = 2**53
"""Of a number."""
MOST_ENTRIES = 64
"""Of a plan, or of any other mapping."""

Plan = dict[str, "int | str | bool"]
"""How a kernel cuts up a call: values by name, which the backend's own ``plans(call)`` offers."""


class Candidate(NamedTuple):
    """A backend with a plan (None: the rule by which it plans by itself), and its microseconds a call."""

    backend: str
    plan: Plan | None
    us: float

    def __str__(self) -> str:
        return f"{self.backend}{with_plan(self.plan)}, {self.us:.3g} us"


class Row(NamedTuple):
    """What was measured of one call.

    Attributes:
        op: the op's name.
        call: its :func:`~glide_fast.plans.signature.signature`.
        dtype: of its first tensor, such as "float16"; also in ``call``.
        fastest, runner_up: the best two that passed the gate; there may be no second.
        error: relative L2 error of the fastest against fp64.
        sources: of every backend that was compared, the digest of its source (:mod:`glide_fast.plans.sources`).
        compared: how many candidates were.
    """

    op: str
    call: str
    dtype: str
    fastest: Candidate
    runner_up: Candidate | None
    error: float
    sources: Mapping[str, str]
    compared: int = 1


class PlanFile(NamedTuple):
    """A whole file. ``versions``: of the packages that it was measured with, by name."""

    device: Device
    versions: Mapping[str, str]
    rows: tuple[Row, ...]


def with_plan(plan: Plan | None) -> str:
    """A plan in words, behind a backend's name; nothing for None."""
    return "" if plan is None else f" ({', '.join(f'{name} {value}' for name, value in plan.items())})"


def read(path: Path, argument: str = "plans") -> PlanFile:
    """The file at ``path``.

    Raises:
        InvalidInputError: for what cannot be read, or is no file of plans. The message begins with ``argument``.
    """
    try:
        if path.is_dir():
            raise _wrong(argument, path, "it is a directory")
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise _wrong(argument, path, getattr(error, "strerror", None) or str(error)) from error
    try:
        return parse(content)
    except ValueError as error:
        raise _wrong(argument, path, str(error)) from error


def _wrong(argument: str, path: Path, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"{argument}: got {str(path)!r}; accepted: a file that glide-fast tune wrote ({reason})"
    )


def parse(content: bytes) -> PlanFile:
    """The file of this content; ValueError, which says where, for any other."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    # Imported where there is a file to read, which few processes have: the package brings all that reads weights.
    from glide_fast.checkpoints.json_text import parse_json

    document = parse_json(content, depth=8)
    whole = _mapping("the document", document, ("format", "device", "versions", "rows"))
    if type(whole["format"]) is not int or whole["format"] != FORMAT:
        raise ValueError(f"format is {_shown(whole['format'])}; this version of glide_fast reads {FORMAT}")
    rows = whole["rows"]
    if not isinstance(rows, list) or len(rows) > MOST_ROWS:
        raise ValueError(f"rows is no list of at most {MOST_ROWS:,}")
    found = tuple(_row(f"rows[{index}]", row) for index, row in enumerate(rows))
    return PlanFile(_device("device", whole["device"]), _texts("versions", whole["versions"]), found)


def _device(where: str, value: object) -> Device:
    given = _mapping(where, value, ("type", "name", "instruction_sets", "threads"))
    sets = given["instruction_sets"]
    if not isinstance(sets, list) or len(sets) > MOST_ENTRIES:
        raise ValueError(f"{where}.instruction_sets is no list of names")
    names = tuple(_text(f"{where}.instruction_sets", one) for one in sets)
    threads = _integer(f"{where}.threads", given["threads"], 0)
    return Device(
        _text(f"{where}.type", given["type"]), _text(f"{where}.name", given["name"]), names, threads
    )


def _row(where: str, value: object) -> Row:
    needed = ("op", "call", "dtype", "backend", "plan", "us", "runner_up", "error", "sources", "compared")
    given = _mapping(where, value, needed)
    second = given["runner_up"]
    if second is not None:
        second = _candidate(f"{where}.runner_up", _mapping(f"{where}.runner_up", second, needed[3:6]))
    sources = _texts(f"{where}.sources", given["sources"])
    fastest = _candidate(where, given)
    if fastest.backend not in sources:
        raise ValueError(f"{where}.sources has no entry for {_shown(fastest.backend)}")
    op, call, dtype = (_text(f"{where}.{name}", given[name]) for name in needed[:3])
    return Row(
        op,
        call,
        dtype,
        fastest,
        second,
        _number(f"{where}.error", given["error"]),
        sources,
        _integer(f"{where}.compared", given["compared"], 1),
    )


def _candidate(where: str, given: Mapping[str, Any]) -> Candidate:
    us = _number(f"{where}.us", given["us"])
    if us <= 0:
        raise ValueError(f"{where}.us is {us}, no time")
    return Candidate(_text(f"{where}.backend", given["backend"]), _plan(f"{where}.plan", given["plan"]), us)


def _plan(where: str, value: object) -> Plan | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
        raise ValueError(f"{where} is no mapping of at most {MOST_ENTRIES} names")
    for name, one in value.items():
        _text(where, name)
        if isinstance(one, str):
            _text(f"{where}.{name}", one)
        elif not isinstance(one, bool):
            _integer(f"{where}.{name}", one, -LARGEST)
    return value


def _mapping(where: str, value: object, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    missing = [name for name in names if name not in value]
    if missing:
        raise ValueError(f"{where} has no {missing[0]}")
    return value


def _texts(where: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
        raise ValueError(f"{where} is no mapping of at most {MOST_ENTRIES} names")
    return {_text(where, name): _text(f"{where}.{name}", one) for name, one in value.items()}


def _text(where: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
        raise ValueError(f"{where} is {_shown(value)}, no text of at most {LONGEST} characters")
    return value


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST:
        raise ValueError(f"{where} is {_shown(value)}, no number from 0 on")
    return float(value)


def _integer(where: str, value: object, least: int) -> int:
    if type(value) is not int or not least <= value <= LARGEST:
        raise ValueError(f"{where} is {_shown(value)}, no integer from {least} on")
    return value


def _shown(value: object) -> str:
    text = "an integer of many digits" if type(value) is int and abs(value) > LARGEST else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text_of(plans: PlanFile) -> str:
    """The file's content: one row a line, by op and call, so that two files differ in the lines that differ."""
    head = {
        "format": FORMAT,
        "device": plans.device._asdict() | {"instruction_sets": list(plans.device.instruction_sets)},
        "versions": dict(plans.versions),
    }
    front = json.dumps(head, indent=1, allow_nan=False)[:-2]
    rows = sorted(plans.rows, key=lambda row: (row.op, row.call))
    lines = ",\n  ".join(json.dumps(_as_object(row), allow_nan=False) for row in rows)
    return f'{front},\n "rows": [\n  {lines}\n ]\n}}\n' if rows else f'{front},\n "rows": []\n}}\n'


def _as_object(row: Row) -> dict[str, Any]:
    second = None if row.runner_up is None else rounded(row.runner_up)._asdict()
    return {
        "op": row.op,
        "call": row.call,
        "dtype": row.dtype,
        **rounded(row.fastest)._asdict(),
        "runner_up": second,
        "error": float(f"{row.error:.3g}"),
        "sources": dict(sorted(row.sources.items())),
        "compared": row.compared,
    }


def rounded(candidate: Candidate) -> Candidate:
    """With its time to four digits."""
    return candidate._replace(us=float(f"{candidate.us:.4g}"))


def write(path: Path, plans: PlanFile) -> None:
    """Write a file whole or not at all; its folder is made."""
    from glide_fast.checkpoints.atomic import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text_of(plans))
