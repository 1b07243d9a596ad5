"""The synthetic caption-to-picture data set that the shipped models are trained on.

``vocabulary`` is what can be said, ``scenes`` says it (seed -> scene -> caption and picture), ``shapes``
and ``sprites`` draw it, ``holdout`` decides what training never sees, ``fetch`` and ``build`` are the two
commands that make the files, and ``dataset`` reads them back.
"""

from __future__ import annotations

from glide_fast.data.dataset import SceneDataset, area_mean
from glide_fast.data.scenes import Scene, SceneConfig, draw, held_out_captions, render, sample_scene
from glide_fast.data.sprites import Sprites, load_sprites

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
