"""One suite for each op, in the module of that name: the ways to make the op's calls without glide_fast.

``BASELINES`` are :class:`~benchmarks.contests.Baseline` by name, ``plain torch`` first. Where other packages can make the call,
``DESCRIPTION`` is the type of its description for them, and ``describe(arguments)`` gives it.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def found() -> dict[str, ModuleType]:
    """Every suite by its op's name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}
