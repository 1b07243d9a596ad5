"""The synthetic caption-to-picture data set that the shipped models are trained on.

``vocabulary`` is what can be said, ``scenes`` says it (seed -> scene -> caption and picture), ``shapes``
and ``sprites`` draw it, ``holdout`` decides what training never sees, ``fetch`` and ``build`` are the two
commands that make the files, and ``dataset`` reads them back.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES_OF = {
    "glide_fast.data.dataset": ("SceneDataset", "area_mean"),
    "glide_fast.data.scenes": ("Scene", "SceneConfig", "draw", "held_out_captions", "render", "sample_scene"),
    "glide_fast.data.sprites": ("Sprites", "load_sprites"),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = [
    "Scene",
    "SceneConfig",
    "SceneDataset",
    "Sprites",
    "area_mean",
    "draw",
    "held_out_captions",
    "load_sprites",
    "render",
    "sample_scene",
]

if TYPE_CHECKING:
    from glide_fast.data.dataset import SceneDataset, area_mean
    from glide_fast.data.scenes import Scene, SceneConfig, draw, held_out_captions, render, sample_scene
    from glide_fast.data.sprites import Sprites, load_sprites


def __getattr__(name: str) -> Any:
    """Imported when first used: who asks for the vocabulary alone does not wait for what draws it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value
