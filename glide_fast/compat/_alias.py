"""Serving ``import glide_text2im`` from this package, by a finder that runs before all others."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from glide_fast.errors import InvalidInputError

OFFICIAL = "glide_text2im"
OURS = "glide_fast.compat"


def _ours(name: str) -> str:
    """The module that serves an official one; both packages have the same submodules."""
    return OURS + name.removeprefix(OFFICIAL)


class _AliasLoader(Loader):
    """Puts the module of glide_fast itself under the official name, so that no module exists twice."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns what stands in sys.modules afterwards. Returning the other module from create_module
        # instead would overwrite its __spec__ with the alias's.
        sys.modules[module.__name__] = importlib.import_module(_ours(module.__name__))


class _AliasFinder(MetaPathFinder):
    """Finds ``glide_text2im`` and its submodules wherever :data:`OURS` has them."""

    def __init__(self) -> None:
        self.replaced: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != OFFICIAL and not fullname.startswith(OFFICIAL + "."):
            return None
        served = importlib.util.find_spec(_ours(fullname))
        if served is None:
            return None
        is_package = served.submodule_search_locations is not None
        return ModuleSpec(fullname, _AliasLoader(), origin=served.origin, is_package=is_package)


def _installed() -> _AliasFinder | None:
    return next((finder for finder in sys.meta_path if isinstance(finder, _AliasFinder)), None)


def _official_origin() -> str | None:
    """Where the official package is imported from, None where it is absent."""
    loaded = sys.modules.get(OFFICIAL)
    if loaded is not None:
        return getattr(loaded, "__file__", None) or "memory"
    spec = importlib.util.find_spec(OFFICIAL)
    # A mere directory of that name, without an __init__.py, has no origin.
    return spec.origin if spec is not None else None


def _forget_modules() -> dict[str, ModuleType]:
    """Take the official names out of ``sys.modules``; return what stood there."""
    names = [name for name in sys.modules if name == OFFICIAL or name.startswith(OFFICIAL + ".")]
    return {name: sys.modules.pop(name) for name in names}


def install(*, override: bool = False) -> None:
    """Make ``import glide_text2im``, and every submodule of it, give glide_fast's modules.

    Args:
        override: do so even where the official package is importable or imported. Modules that hold objects of the official
            package keep them; :func:`uninstall` brings the package back.

    Calling it again changes nothing.

    Raises:
        InvalidInputError: the official package is here and ``override`` is False.
    """
    if _installed() is not None:
        return
    origin = _official_origin()
    if origin is not None and not override:
        raise InvalidInputError(
            f"override: got False, and the official {OFFICIAL} is here ({origin}); accepted: True, to serve glide_fast's "
            f"modules in its place. Or import {OURS} by name, or uninstall {OFFICIAL}"
        )
    finder = _AliasFinder()
    finder.replaced = _forget_modules()
    sys.meta_path.insert(0, finder)


def uninstall() -> None:
    """Undo :func:`install`: imports of ``glide_text2im`` work (or fail) as they did before it. Harmless where not installed."""
    finder = _installed()
    if finder is None:
        return
    sys.meta_path.remove(finder)
    _forget_modules()
    sys.modules.update(finder.replaced)
