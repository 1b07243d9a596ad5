"""The parts of the benchmarks, one in a file: each has ``measure(settings)``, which yields measurements one by one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from glide_fast.bench.measurement import Measurement
from glide_fast.bench.settings import Settings

PARTS = {
    "ops": "each operation of a step: every backend against plain torch",
    "step": "one step of a loop: the network and the update",
    "loop": "a whole sampling loop of one model",
    "pipeline": "a picture from a prompt, both stages",
    "cold-start": "from the start of a process to the first picture",
    "memory": "the most memory that a process needs",
    "waiting": "what it costs on a CPU that waiting threads sleep",
    "quality": "fewer or cheaper steps: time beside the difference from the full sampler's pictures",
}
"""The parts' names, and what each measures."""


def measure(part: str, settings: Settings) -> Iterator[Measurement]:
    """The measurements of one of :data:`PARTS`."""
    module = importlib.import_module(f"{__name__}.{part.replace('-', '_')}")
    measurements: Iterator[Measurement] = module.measure(settings)
    return measurements
