"""The measurement of a contestant: a row of the table and of the CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from glide_fast.bench.record import Row
from glide_fast.bench.timing import Timing
from glide_fast.ops.case import Cost

KEY = ("part", "model", "work", "contestant")
"""The columns that name a row."""


@dataclass(frozen=True)
class Measurement:
    """A contestant's measured value, or the reason why it has none.

    Attributes:
        part, model, work: the part of the benchmarks, the model and the piece of work; rows with the same ones are compared.
        contestant: the name of the contestant.
        value, lower, upper, best: in ``unit``: the median, the quartiles and the least, or a single value.
        from_python, cold: medians on a GPU when Python launches each call, and when the L2 cache is cold.
        samples: how many were taken; 0 where there is no value.
        speedup: the first contestant's value over this one; None where there is none, or the gate is red.
        error, allowed: relative L2 error, and the largest that is allowed.
        fault: a fault besides the error, in words: a crash, or work that was not done.
        guest: whether the contestant is another package, whose errors do not fail the run.
        cost: the least that the work moves and computes.
        over_copy: the value over the time of a copy of as many bytes.
        clocks, throttled: those of the GPU while it was measured (:mod:`glide_fast.bench.clocks`).
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
    best: float | None = None
    from_python: float | None = None
    cold: float | None = None
    samples: int = 0
    speedup: float | None = None
    error: float | None = None
    allowed: float | None = None
    fault: str = ""
    guest: bool = False
    cost: Cost | None = None
    over_copy: float | None = None
    clocks: str = ""
    throttled: str = ""
    note: str = ""

    @property
    def gate(self) -> str:
        """ "green", "red", or "" where nothing is compared."""
        if self.fault:
            return "red"
        if self.error is None or self.allowed is None:
            return ""
        return "green" if self.error <= self.allowed else "red"

    @property
    def failed(self) -> bool:
        """Whether this row fails the run. A guest with too large an error (8-bit ones have it) only gets no speed-up."""
        return self.gate == "red" and not self.guest

    def with_speedup(self, speedup: float, surprising: float) -> Measurement:
        """This measurement with a speed-up; from ``surprising`` on it also has a note that asks somebody to check it."""
        doubt = f"more than {surprising:g}x: look whether it does the work" if speedup >= surprising else ""
        return replace(self, speedup=speedup, note="; ".join(filter(None, (self.note, doubt))))

    def row(self) -> Row:
        """The measurement as a row of a CSV."""
        rates: tuple[float | None, float | None] = (None, None)
        if self.cost is not None and self.value:
            rates = (self.cost.bytes / self.value / 1e9, self.cost.flops / self.value / 1e9)
        return {
            "part": self.part,
            "model": self.model,
            "work": self.work,
            "contestant": self.contestant,
            "value": _number(self.value, ".6g"),
            "unit": self.unit,
            "lower": _number(self.lower, ".6g"),
            "upper": _number(self.upper, ".6g"),
            "best": _number(self.best, ".6g"),
            "from_python": _number(self.from_python, ".6g"),
            "cold": _number(self.cold, ".6g"),
            "samples": str(self.samples),
            "speedup": "refused" if self.gate == "red" else _number(self.speedup, ".3f"),
            "error": _number(self.error, ".3g"),
            "allowed": _number(self.allowed, ".3g"),
            "gate": self.gate,
            "over_copy": _number(self.over_copy, ".3f"),
            "gb_per_s": _number(rates[0], ".2f"),
            "gflop_per_s": _number(rates[1], ".2f"),
            "clocks": self.clocks,
            "throttled": self.throttled,
            "note": "; ".join(filter(None, (self.fault, self.note))),
        }


def timed(timing: Timing) -> dict[str, float | int | None]:
    """A timing as fields of a measurement in seconds."""
    return {
        "value": timing.median / 1e6,
        "lower": timing.lower / 1e6,
        "upper": timing.upper / 1e6,
        "best": timing.best / 1e6,
        "from_python": None if timing.from_python is None else timing.from_python / 1e6,
        "cold": None if timing.cold is None else timing.cold / 1e6,
        "samples": timing.samples,
    }


def short_name(dtype: torch.dtype) -> str:
    """A type without its module, such as "float16"."""
    return str(dtype).removeprefix("torch.")


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
        lines += [f"  {m.contestant:<{width}}  {_line(m)}" for m in members]
        lines.append("")
    return "\n".join(lines).rstrip()


def _line(m: Measurement) -> str:
    parts = [] if m.value is None else [f"{quantity(m.value, m.unit):>9}"]
    if m.lower is not None and m.upper is not None and m.samples > 1:
        parts.append(f"({quantity(m.lower, m.unit)} to {quantity(m.upper, m.unit)})")
    if m.cold is not None:
        parts.append(f"{quantity(m.cold, m.unit)} with a cold cache")
    refused = "speed-up refused" if m.value is not None else "wrong"
    if m.fault:
        parts.append(f"{refused}: {m.fault}")
    elif m.error is not None and m.allowed is not None and m.gate == "red":
        parts.append(f"{refused}: error {m.error:.2g}, allowed {m.allowed:.2g}")
    else:
        parts += [] if m.speedup is None else [f"{m.speedup:.2f}x"]
        parts += [] if m.error is None else [f"error {m.error:.2g}"]
    if m.cost is not None and m.value:
        parts.append(f"{m.cost.bytes / m.value / 1e9:.1f} GB/s, {m.cost.flops / m.value / 1e9:.0f} GFLOP/s")
    if m.throttled:
        parts.append(f"throttled: {m.throttled}")
    return "  ".join([*parts, *([m.note] if m.note else [])])
