"""What is told of a contestant: a row of the table and of the CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from glide_fast.bench.files import Row
from glide_fast.bench.timing import Timing


@dataclass(frozen=True)
class Measurement:
    """One value, or why there is none.

    Attributes:
        part, model, work: what was measured; rows that agree in these are one comparison.
        contestant: who.
        value, lower, upper: in ``unit``: the median and the quartiles, or a single value.
        samples: how many; 0 where there is no value.
        speedup: the first baseline's value over this one; None where there is none, or the gate is red.
        error, allowed: relative L2 error against fp32, and the most that may be.
        note: anything else, such as why it declined.
    """

    part: str
    model: str
    work: str
    contestant: str
    value: float | None = None
    unit: str = "s"
    lower: float | None = None
    upper: float | None = None
    samples: int = 0
    speedup: float | None = None
    error: float | None = None
    allowed: float | None = None
    note: str = ""

    @property
    def gate(self) -> str:
        """ "green", "red", or "" where nothing is compared."""
        if self.error is None or self.allowed is None:
            return ""
        return "green" if self.error <= self.allowed else "red"

    def row(self) -> Row:
        """Its columns in a CSV."""
        return {
            "part": self.part,
            "model": self.model,
            "work": self.work,
            "contestant": self.contestant,
            "value": _number(self.value, ".6g"),
            "unit": self.unit,
            "lower": _number(self.lower, ".6g"),
            "upper": _number(self.upper, ".6g"),
            "samples": str(self.samples),
            "speedup": "refused" if self.gate == "red" else _number(self.speedup, ".3f"),
            "error": _number(self.error, ".3g"),
            "allowed": _number(self.allowed, ".3g"),
            "gate": self.gate,
            "note": self.note,
        }


def timed(timing: Timing) -> dict[str, float | int]:
    """A timing as fields of a measurement in seconds."""
    return {
        "value": timing.median / 1e6,
        "lower": timing.lower / 1e6,
        "upper": timing.upper / 1e6,
        "samples": timing.samples,
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def quantity(value: float, unit: str) -> str:
    """A value for people: seconds as s, ms or us."""
    if unit != "s":
        return f"{value:.1f} {unit}"
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1 or name == "us":
            return f"{value * factor:.3g} {name}" if value * factor < 100 else f"{value * factor:.0f} {name}"
    raise AssertionError("us takes every value")


def table(measurements: Sequence[Measurement]) -> str:
    """Comparisons, one below the other, for a screen."""
    lines: list[str] = []
    for (part, model, work), group in groupby(measurements, lambda m: (m.part, m.model, m.work)):
        members = list(group)
        lines.append(f"{part}: {model}, {work}")
        width = max(len(m.contestant) for m in members)
        lines += [f"  {m.contestant:<{width}}  {_told(m)}" for m in members]
        lines.append("")
    return "\n".join(lines).rstrip()


def _told(m: Measurement) -> str:
    if m.value is None:
        return m.note
    parts = [f"{quantity(m.value, m.unit):>9}"]
    if m.lower is not None and m.upper is not None and m.samples > 1:
        parts.append(f"({quantity(m.lower, m.unit)} to {quantity(m.upper, m.unit)})")
    if m.gate == "red":
        parts.append(f"speed-up refused: error {m.error:.2g}, allowed {m.allowed:.2g}")
    else:
        parts += [] if m.speedup is None else [f"{m.speedup:.2f}x"]
        parts += [] if m.error is None else [f"error {m.error:.2g}"]
    return "  ".join([*parts, *([m.note] if m.note else [])])
