"""Loading the models and settings of a pipeline: from a directory, the shipped models, or the released checkpoints."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from glide_fast import weights
from glide_fast.checkpoints import load_checkpoint, read_pipeline_directory
from glide_fast.checkpoints.atomic import current_directory, read_unchanged
from glide_fast.checkpoints.directory import (
    CONFIG_NAME,
    PIPELINE_NAME,
    is_training_run,
    naming,
    open_directory,
)
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.models.config import preset
from glide_fast.pipelines import clip_component
from glide_fast.pipelines.agreement import clip_config, require_stage, require_unet_weights
from glide_fast.pipelines.components import CLIP, Components
from glide_fast.pipelines.options import BASE, UPSAMPLER
from glide_fast.pipelines.saved_settings import check_settings
from glide_fast.pipelines.stage import Ready, Stage


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
    """Every name that :func:`load_parts` knows: the models that ship, and the released ones, which are downloaded."""
    return [*weights.available(), *_OFFICIAL]


def load_parts(
    name: str | os.PathLike[str],
    ready: Ready | None = None,
    *,
    progress: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Components:
    """Load the models and settings of a pipeline.

    Args:
        name: one of :func:`names`, or a directory: of a pipeline; of a UNet, which becomes a pipeline of one stage; or of a
            training run, ended or not, for the averaged weights of its newest checkpoint. A name wins over a directory of the
            same name in the working directory; write ``./name`` for that one.
        ready: called with each stage before the next one is read; with None stages stay in fp32 on the CPU.
        progress: show download bars.
        cache_dir: where downloads are kept.

    Raises:
        InvalidInputError: for a name that is neither a known name nor a directory.
        CheckpointError, DownloadError.
    """
    if isinstance(name, str) and name in _OFFICIAL:
        return _released(_OFFICIAL[name], ready, progress, cache_dir)
    if isinstance(name, str) and name in weights.available():
        return _directory(weights.path(name), ready)
    try:
        found = os.fspath(name) != "" and os.path.exists(current_directory(name))
    except (TypeError, ValueError):
        found = False
    if not found:
        raise InvalidInputError(
            f"name: got {name!r}, which is no directory; accepted: {', '.join(map(repr, names()))}, or a directory that "
            "save_pretrained, glide-fast train or glide-fast convert wrote"
        )
    return _directory(Path(name), ready)


def _directory(path: Path, ready: Ready | None) -> Components:
    """All of a directory's parts, of one version of it, even where it is replaced meanwhile."""
    return read_unchanged(path, lambda: _parts_of(path, ready))


def _parts_of(path: Path, ready: Ready | None) -> Components:
    folder = current_directory(path)
    if not os.path.exists(folder / CONFIG_NAME) or os.path.exists(folder / PIPELINE_NAME):
        return _pipeline(path, ready)
    settings: dict[str, Any] = {}
    if is_training_run(folder):
        # Not above: few need it, and it brings all of training.
        from glide_fast.train.state import RunDirectory

        run = RunDirectory(folder)
        options, state, settings["training_step"] = run.newest_model()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        require_unet_weights(options, shapes, run.config_path, run.checkpoint_path)
        stage = Stage.from_state(options, state, source=str(path), ready=ready)
    else:
        stage = Stage.from_directory(open_directory(path), ready=ready)
    if stage.upsamples:
        return Components(None, stage, None, settings)
    return Components(stage, None, None, settings)


def _pipeline(path: Path, ready: Ready | None) -> Components:
    directory = read_pipeline_directory(path)
    unknown = sorted(set(directory.components) - {BASE, UPSAMPLER, CLIP})
    if unknown or not set(directory.components) & {BASE, UPSAMPLER}:
        names = ", ".join(map(reprlib.repr, list(directory.components)[:10]))
        raise CheckpointError(
            f"{directory.config_file} has the components {names}; a pipeline has {BASE} or {UPSAMPLER} or both, and may have "
            f"{CLIP}"
        )
    with naming(directory.config_file):
        check_settings(directory.settings)
    parts = {name: directory.open(name) for name in directory.components}
    # All of them before any is built: an error in the last should not come after minutes.
    for name, part in parts.items():
        if name == CLIP:
            clip_config(part)
        else:
            require_stage(part, name, super_res=name == UPSAMPLER)

    def stage(name: str) -> Stage | None:
        return Stage.from_directory(parts[name], ready=ready) if name in parts else None

    clip = clip_component.from_directory(parts[CLIP]) if CLIP in parts else None
    return Components(stage(BASE), stage(UPSAMPLER), clip, directory.settings)


def _released(release: _Release, ready: Ready | None, progress: bool, cache_dir: Any) -> Components:
    def stage(checkpoint: str) -> Stage:
        state = load_checkpoint(checkpoint, "cpu", progress, cache_dir, mmap=False)
        return Stage.from_state(preset(checkpoint), state, source=f"checkpoint {checkpoint!r}", ready=ready)

    clip = clip_component.official(progress=progress, cache_dir=cache_dir) if release.clip else None
    return Components(stage(release.base), stage(release.upsampler), clip, dict(release.settings))
