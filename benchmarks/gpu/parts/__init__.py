"""The parts, in several modules; ``parts(setting)`` of a module lists its parts, and ``../order.py`` orders them."""

from __future__ import annotations

from benchmarks.gpu.part import Part, Setting
from benchmarks.gpu.parts import (
    build,
    commands,
    kernels,
    loops,
    ops,
    peak,
    precision,
    sanitizer,
    tests,
    training,
    tune,
)

MODULES = (build, kernels, tests, tune, ops, commands, precision, peak, loops, training, sanitizer)


def parts(setting: Setting) -> tuple[Part, ...]:
    """All parts."""
    return tuple(part for module in MODULES for part in module.parts(setting))
