"""The parts, one module a kind; the order is that in which they run. A module's ``PARTS`` lists what it has."""

from __future__ import annotations

from benchmarks.gpu.part import Part
from benchmarks.gpu.parts import (
    accuracy,
    build,
    commands,
    loops,
    ops,
    peak,
    precision,
    sanitizer,
    tests,
    training,
)

MODULES = (build, tests, sanitizer, accuracy, precision, ops, commands, peak, loops, training)


def parts() -> tuple[Part, ...]:
    """All parts, in their order."""
    return tuple(part for module in MODULES for part in module.PARTS)
