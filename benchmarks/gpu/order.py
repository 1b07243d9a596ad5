"""The order in which parts run, and whether a part fits into the time that is left."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.gpu.part import GREEN, Part
from glide_fast.bench.record import Row

ORDER = (
    "build",
    "kernels",
    "tests",
    "tune",
    "step base 2",
    "profile base 2",
    "step upsample 1",
    "profile upsample 1",
    "same-picture",
    "check",
    "step base 32",
    "profile base 32",
    "ceilings",
    "ops group_norm_act",
    "pipeline base+upsample 1",
    "cold-start",
    "accuracy-steps",
    "ablation step base 2",
    "ops",
    "memory",
    "capture",
    "step",
    "profile",
    "loop",
    "quality",
    "bf16",
    "ablation",
    "pipeline",
    "peak",
    "accuracy-loops",
    "training",
    "compiled",
    "compiled-ops",
    "sanitizer",
    "soak",
)
"""The parts, those first that yield most information for their time. A name stands for all parts whose names begin with it and
are not listed themselves."""
MARGIN = 1.2
"""A part is begun only if this multiple of its estimated time is left."""
SPEEDS = 0.25, 4.0
"""The range of factors by which a machine may be faster or slower than the estimates."""


def rank(name: str) -> int:
    """The number of a part in :data:`ORDER`; ValueError for one that is not in it."""
    words = name.split(" ")
    for end in range(len(words), 0, -1):
        if (known := " ".join(words[:end])) in ORDER:
            return ORDER.index(known)
    raise ValueError(f"{name} is not in the order of parts")


def ordered(parts: Iterable[Part]) -> list[Part]:
    """The parts in the order in which they run."""
    return sorted(parts, key=lambda part: rank(part.name))


class Estimates:
    """Estimates of the parts' times: the time that a part took before, else its expected time, scaled by those of other parts.

    Args:
        known: rows of parts.csv, of any version of the code.
    """

    def __init__(self, parts: Sequence[Part], known: Sequence[Row]) -> None:
        self._expected = {part.name: part.seconds for part in parts}
        self._took: dict[str, float] = {}
        for row in known:
            if row.get("state") == GREEN and row.get("seconds"):
                self.note(row["part"], float(row["seconds"]))

    def note(self, name: str, seconds: float) -> None:
        """Record that a part ended well after so many seconds."""
        self._took[name] = seconds

    @property
    def speed(self) -> float:
        """The ratio of measured to expected times on this machine: the median over the parts that ended."""
        ratios = [
            seconds / self._expected[name]
            for name, seconds in self._took.items()
            if self._expected.get(name, 0.0) > 0
        ]
        low, high = SPEEDS
        return min(high, max(low, statistics.median(ratios))) if ratios else 1.0

    def seconds(self, part: Part) -> float:
        """The estimated time of a part."""
        return self._took.get(part.name, part.seconds * self.speed)

    def needs(self, part: Part) -> float:
        """The time that must be left for a part to be begun."""
        whole = MARGIN * self.seconds(part)
        return whole if part.least is None else min(whole, part.least)
