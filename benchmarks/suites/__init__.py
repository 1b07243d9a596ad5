"""One suite an op, in a module of its own: ``cases(device, compile_too, quick)`` gives the shapes of GLIDE's models."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def found() -> dict[str, ModuleType]:
    """Every suite by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}
