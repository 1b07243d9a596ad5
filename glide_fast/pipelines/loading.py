"""Where a pipeline's parts come from: a directory, the models that ship, or the released checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glide_fast import weights
from glide_fast.checkpoints import load_checkpoint, read_directory, read_pipeline_directory
from glide_fast.checkpoints.atomic import current_directory
from glide_fast.checkpoints.directory import (
    CONFIG_NAME,
    PIPELINE_NAME,
    RUN_CHECKPOINT_NAME,
    RUN_LOCK_NAME,
)
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.models.config import preset
from glide_fast.pipelines import clip_component
from glide_fast.pipelines.stage import Ready, Stage

BASE, UPSAMPLER, CLIP = "base", "upsampler", "clip"
"""Components of a pipeline directory."""


class Parts(NamedTuple):
    """What a pipeline is made of; the CLIP in fp32 on the CPU."""

    base: Stage | None
    upsampler: Stage | None
    clip: Any
    settings: dict[str, Any]


class _Release(NamedTuple):
    base: str
    upsampler: str
    clip: bool
    settings: Mapping[str, Any]


_OFFICIAL = {
    "official": _Release("base", "upsample", False, {}),
    # As the released inpainting notebook samples: more guidance, and DDPM in both stages.
    "official-inpaint": _Release(
        "base-inpaint", "upsample-inpaint", False, {"guidance_scale": 5.0, "upsample_sampler": "ddpm"}
    ),
    "official-clip": _Release("base", "upsample", True, {}),
}


def names() -> list[str]:
    """Every name that :func:`load_parts` knows: what ships, and the released models (downloaded)."""
    return [*weights.available(), *_OFFICIAL]


def load_parts(
    name: str | os.PathLike[str],
    ready: Ready | None = None,
    *,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Parts:
    """Load a pipeline by one of :func:`names`, or from a directory in the directory format: a pipeline's, or that of one UNet,
    which becomes a pipeline of one stage. The directory of a training run, ended or not, is that of a UNet: the averaged weights
    of its newest checkpoint. Each stage is made ``ready`` before the next is read; with None they stay in fp32 on the CPU.

    A name wins over a directory called the same in the working directory; write ``./name`` for that.

    Raises InvalidInputError for a name that is neither, and CheckpointError and DownloadError.
    """
    if isinstance(name, str) and name in _OFFICIAL:
        return _released(_OFFICIAL[name], ready, progress, cache_dir)
    if isinstance(name, str) and name in weights.available():
        return _directory(weights.path(name), ready)
    try:
        found = os.fspath(name) != "" and current_directory(name).exists()
    except (TypeError, ValueError, OSError):
        found = False
    if not found:
        raise InvalidInputError(
            f"name: got {name!r}, which is no directory; accepted: {', '.join(map(repr, names()))}, or a directory that "
            "save_pretrained, glide-fast train or glide-fast convert wrote"
        )
    return _directory(Path(name), ready)


def _directory(path: Path, ready: Ready | None) -> Parts:
    folder = current_directory(path)
    if (folder / CONFIG_NAME).exists() and not (folder / PIPELINE_NAME).exists():
        run = _run(folder)
        component = read_directory(path, mmap=False) if run is None else run[0]
        settings = {} if run is None else {"training_step": run[1]}
        stage = Stage.from_component(component, source=str(path), ready=ready)
        return Parts(None, stage, None, settings) if stage.upsamples else Parts(stage, None, None, settings)
    return _pipeline(path, ready)


def _run(folder: Path) -> tuple[tuple[str, dict[str, Any], dict[str, Any]], int] | None:
    """A training run's newest checkpoint as a component, and its step; None where the directory is no run's."""
    if not any((folder / name).exists() for name in (RUN_CHECKPOINT_NAME, RUN_LOCK_NAME)):
        return None
    from glide_fast.train.state import RunDirectory  # not above: few need it, and it brings all of training

    return RunDirectory(folder).component()


def _pipeline(path: Path, ready: Ready | None) -> Parts:
    directory = read_pipeline_directory(path)
    unknown = sorted(set(directory.components) - {BASE, UPSAMPLER, CLIP})
    if unknown or not set(directory.components) & {BASE, UPSAMPLER}:
        raise CheckpointError(
            f"{path} has the components {', '.join(directory.components)}; a pipeline has {BASE} or {UPSAMPLER} or both, "
            f"and may have {CLIP}"
        )

    def stage(component: str) -> Stage | None:
        if component not in directory.components:
            return None
        return Stage.from_component(
            directory.read(component, mmap=False), source=str(path / component), ready=ready
        )

    clip = None
    if CLIP in directory.components:
        clip = clip_component.from_component(directory.read(CLIP), source=str(path / CLIP))
    return Parts(stage(BASE), stage(UPSAMPLER), clip, directory.settings)


def _released(release: _Release, ready: Ready | None, progress: bool, cache_dir: Any) -> Parts:
    def stage(checkpoint: str) -> Stage:
        state = load_checkpoint(checkpoint, "cpu", progress, cache_dir, mmap=False)
        return Stage.from_state(preset(checkpoint), state, source=f"checkpoint {checkpoint!r}", ready=ready)

    clip = clip_component.official(progress=progress, cache_dir=cache_dir) if release.clip else None
    return Parts(stage(release.base), stage(release.upsampler), clip, dict(release.settings))
