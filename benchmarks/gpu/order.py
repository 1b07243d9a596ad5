"""In which order parts run, and whether one fits into the time that is left."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.gpu.part import GREEN, Part
from glide_fast.bench.record import Row

ORDER = (
    "build",
    "kernels",
    "tests",
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
"""What tells most in a second comes first. A name stands for all parts that begin with it and are not named themselves."""
MARGIN = 1.2
"""A part is begun where this multiple of its estimate is left."""
SPEEDS = 0.25, 4.0
"""So far may another machine be from the estimates."""


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
    """How long parts take: as long as they took before, else what is expected, times what other parts took of theirs.

    Args:
        known: rows of parts.csv, of any code.
    """

    def __init__(self, parts: Sequence[Part], known: Sequence[Row]) -> None:
        self._expected = {part.name: part.seconds for part in parts}
        self._took: dict[str, float] = {}
        for row in known:
            if row.get("state") == GREEN and row.get("seconds"):
                self.note(row["part"], float(row["seconds"]))

    def note(self, name: str, seconds: float) -> None:
        """A part ended well after so many seconds."""
        self._took[name] = seconds

    @property
    def speed(self) -> float:
        """What parts take here, as a multiple of what is expected: the median of those that ended."""
        ratios = [
            seconds / self._expected[name]
            for name, seconds in self._took.items()
            if self._expected.get(name, 0.0) > 0
        ]
        low, high = SPEEDS
        return min(high, max(low, statistics.median(ratios))) if ratios else 1.0

    def seconds(self, part: Part) -> float:
        """What a part will take."""
        return self._took.get(part.name, part.seconds * self.speed)

    def needs(self, part: Part) -> float:
        """The time that must be left for a part to be begun."""
        whole = MARGIN * self.seconds(part)
        return whole if part.least is None else min(whole, part.least)
