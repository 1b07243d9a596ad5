"""The time from the start of a process until it is ready, to the first step and to the first picture.

Files are in the system's cache already.
"""

from __future__ import annotations

from collections.abc import Iterator

from glide_fast.bench import contestants, fresh
from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.settings import Settings
from glide_fast.bench.timing import summarise

EAGER = "reference eager"


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time the start of glide_fast and of a plain model; each phase is the time since the start of the process to its end."""
    who = [(EAGER, False)] if "none" not in settings.baselines else []
    who.append((contestants.OURS, True))
    rounds = min(settings.samples, 3)
    with fresh.directories(settings.models) as pipelines:
        for title, name in pipelines:
            found: dict[str, list[dict[str, float]]] = {label: [] for label, _ in who}
            for _ in range(rounds):
                for label, fast in who:
                    found[label].append(fresh.run(name, settings, fast=fast)["phases"])
            steps = settings.steps or fresh.STEPS
            for phase in found[contestants.OURS][0]:
                what = f"{phase} ({steps} steps a stage)" if phase == "first picture" else phase
                for label, _ in who:
                    timing = summarise([phases[phase] for phases in found[label]])
                    yield Measurement("cold-start", title, what, label, **timed(timing))  # type: ignore[arg-type]
