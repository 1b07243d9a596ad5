"""The directory format: `config.json` beside `model.safetensors`; a pipeline is several of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from glide_fast.checkpoints.atomic import atomic_directory, current_directory, read_unchanged
from glide_fast.checkpoints.files import read_shapes, read_state_dict, reporting_failed_writes, storable
from glide_fast.checkpoints.fit import require_fit
from glide_fast.checkpoints.infer import infer_kind, infer_options
from glide_fast.checkpoints.json_text import MAX_BYTES, MAX_DEPTH, parse_json
from glide_fast.checkpoints.paths import checked_path, read_small
from glide_fast.errors import CheckpointError, InvalidInputError, invalid, naming_entries

FORMAT = "glide_fast"
VERSION = 1
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
PIPELINE_NAME = "pipeline.json"
RUN_CHECKPOINT_NAME, RUN_LOCK_NAME, RUN_MODEL_NAME = "checkpoint.pt", "train.lock", "model"
"""Names in the directory of a training run, besides a config.json; RUN_MODEL_NAME only once the run has ended."""

_COMPONENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def save_directory(
    path: str | os.PathLike[str], kind: str, options: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> None:
    """Write a model as `<path>/config.json` and `<path>/model.safetensors`, whole or not at all.

    kind: the type of model ("unet", "clip_text", ...). options: JSON values by name; tuples come back as
    lists. state_dict: see :func:`write_state_dict`.

    A directory that this function wrote before is replaced; any other non-empty directory, or one to which
    files have been added, is refused. Raises InvalidInputError before anything is written, and
    CheckpointError.
    """
    config = _model_config(kind, options)
    _check_replaceable(checked_path(path))
    with _building(path) as temporary:
        _fill(temporary, config, state_dict)


@dataclasses.dataclass(frozen=True)
class ModelDirectory:
    """An opened model directory, whose weights have not been read. `kind` and `options`: the arguments of `save_directory`."""

    path: Path
    kind: str
    options: dict[str, Any]

    @property
    def config_file(self) -> Path:
        """The file that holds kind and options."""
        return self.path / CONFIG_NAME

    @property
    def weights_file(self) -> Path:
        """Where the weights are."""
        return self.path / WEIGHTS_NAME

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name, from the head of the weights' file; CheckpointError as `read`."""
        return read_shapes(self.weights_file)

    def read(self, *, mmap: bool = True) -> dict[str, Tensor]:
        """The state dict on the CPU; `mmap` and CheckpointError as for :func:`read_state_dict`."""
        return read_state_dict(self.weights_file, mmap=mmap)


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turn an InvalidInputError about a value into a CheckpointError about the `file` that the value came from."""
    try:
        yield
    except InvalidInputError as error:
        raise CheckpointError(f"{file}: {error}") from error


def is_training_run(folder: Path) -> bool:
    """Whether a directory is that of a training run, ended or not."""
    return any(os.path.exists(folder / name) for name in (RUN_CHECKPOINT_NAME, RUN_LOCK_NAME))


def open_directory(path: str | os.PathLike[str]) -> ModelDirectory:
    """Open what :func:`save_directory` wrote; CheckpointError as :func:`read_directory`."""
    return read_unchanged(path, lambda: _open_directory(path))


def _open_directory(path: str | os.PathLike[str]) -> ModelDirectory:
    folder = _existing_directory(path)
    if not os.path.exists(folder / CONFIG_NAME) and os.path.exists(folder / PIPELINE_NAME):
        raise CheckpointError(
            f"{path} is a whole pipeline, not one model; read it with read_pipeline_directory"
        )
    config = _read_config(folder / CONFIG_NAME)
    kind, options = config.get("kind"), config.get("options")
    if not isinstance(kind, str) or not isinstance(options, dict):
        raise CheckpointError(f"{folder / CONFIG_NAME} lacks 'kind' (text) or 'options' (a mapping)")
    return ModelDirectory(folder, kind, options)


def read_directory(
    path: str | os.PathLike[str], *, mmap: bool = True
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`save_directory` wrote: (kind, options, state dict on the CPU); `mmap` as for `read_state_dict`.

    Raises CheckpointError where the directory is missing, incomplete, damaged, foreign, or written by a newer
    version.
    """

    def read() -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        directory = _open_directory(path)
        return directory.kind, directory.options, directory.read(mmap=mmap)

    return read_unchanged(path, read)


@dataclasses.dataclass(frozen=True)
class PipelineDirectory:
    """An opened pipeline directory. Components are read when asked for, not before.

    settings: the free-form settings that were saved. components: component name -> its sub directory.
    """

    path: Path
    settings: dict[str, Any]
    components: dict[str, Path]

    @property
    def config_file(self) -> Path:
        """Where the settings are."""
        return self.path / PIPELINE_NAME

    def open(self, name: str) -> ModelDirectory:
        """One component; CheckpointError as :func:`read_directory`."""
        if name not in self.components:
            raise CheckpointError(
                f"{self.path} has no component {name!r}; it has: {', '.join(self.components)}"
            )
        return open_directory(self.components[name])

    def read(self, name: str, *, mmap: bool = True) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """(kind, options, state dict) of one component; CheckpointError as :func:`read_directory`."""
        directory = self.open(name)
        return directory.kind, directory.options, directory.read(mmap=mmap)


def save_pipeline_directory(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    components: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Tensor]]],
) -> None:
    """Write a pipeline as `<path>/pipeline.json` and one model directory a component, whole or not at all.

    settings: free-form JSON values (defaults for steps, scales and so on). components: name -> (kind,
    options, state dict); the sub directory has the same name. Existing directories are replaced or refused as
    in :func:`save_directory`.
    """
    if not components:
        raise invalid("components", {}, "at least one component")
    configs = {}
    for name, (kind, options, _) in components.items():
        if not isinstance(name, str) or not _COMPONENT_NAME.fullmatch(name):
            raise invalid(
                "components",
                name,
                "names of at most 100 letters, digits, '_', '-' and '.', not starting with a sign",
            )
        configs[name] = _model_config(kind, options)
    pipeline = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "pipeline",
        "settings": _json_values("settings", settings),
        "components": {name: name for name in components},
    }
    _check_replaceable(checked_path(path))
    with _building(path) as temporary:
        for name, (_, _, state_dict) in components.items():
            (temporary / name).mkdir()
            _fill(temporary / name, configs[name], state_dict)
        (temporary / PIPELINE_NAME).write_bytes(_encoded(pipeline))


def read_pipeline_directory(path: str | os.PathLike[str]) -> PipelineDirectory:
    """Open what :func:`save_pipeline_directory` wrote, reading no weights yet; CheckpointError as there."""
    return read_unchanged(path, lambda: _read_pipeline_directory(path))


def _read_pipeline_directory(path: str | os.PathLike[str]) -> PipelineDirectory:
    folder = _existing_directory(path)
    if not os.path.exists(folder / PIPELINE_NAME) and os.path.exists(folder / CONFIG_NAME):
        raise CheckpointError(f"{path} is one model, not a pipeline; read it with read_directory")
    pipeline = _read_config(folder / PIPELINE_NAME)
    if pipeline.get("kind") != "pipeline":
        raise CheckpointError(
            f"{folder / PIPELINE_NAME} is of kind {reprlib.repr(pipeline.get('kind'))}, not 'pipeline'"
        )
    settings, named = pipeline.get("settings"), pipeline.get("components")
    if not isinstance(settings, dict) or not isinstance(named, dict) or not named:
        raise CheckpointError(f"{folder / PIPELINE_NAME} lacks 'settings' or 'components' (mappings)")
    components = {}
    for name, subdirectory in named.items():
        # The file may come from anyone: it must not point out of its own directory.
        if not isinstance(subdirectory, str) or not _COMPONENT_NAME.fullmatch(subdirectory):
            raise CheckpointError(
                f"{folder / PIPELINE_NAME} puts component {reprlib.repr(name)} in {reprlib.repr(subdirectory)}, not a sub "
                "directory"
            )
        if not os.path.isdir(folder / subdirectory):
            raise CheckpointError(
                f"{folder / PIPELINE_NAME}: the sub directory {subdirectory!r} of component {reprlib.repr(name)} is missing"
            )
        components[name] = folder / subdirectory
    return PipelineDirectory(path=folder, settings=settings, components=components)


def convert_official(
    pt_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Convert an official .pt file (or any file :func:`read_state_dict` takes) to the directory format.

    The kind and the options that shapes decide come from :func:`infer_options`; `options` adds those that
    leave no trace in shapes (num_head_channels, noise_schedule, ...) and may repeat the others only where
    they agree. `key` picks the state dict out of a file that holds several things. Dtypes are kept.
    Returns (kind, options) as written. Raises CheckpointError, also for a UNet with
    missing or unexpected keys, and InvalidInputError, also for options that no model can be built with.
    """
    _check_replaceable(checked_path(out_dir, "out_dir"))
    state = read_state_dict(pt_path, key=key)
    try:
        inferred = infer_options(state)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(pt_path)} cannot be converted: {error}") from error
    merged = inferred | dict(options or {})
    for name, value in inferred.items():
        if merged[name] != value:
            raise invalid(
                f"options[{name!r}]", merged[name], f"{value!r}, which the checkpoint's shapes decide"
            )
    kind = str(infer_kind(state))
    with naming_entries("options", merged):
        if kind == "unet":
            _require_whole_unet(merged, state, os.fspath(pt_path))
        else:
            from glide_fast.models.clip_config import complete_clip_config

            complete_clip_config(merged)
    save_directory(out_dir, kind, merged, state)
    return kind, merged


def _require_whole_unet(options: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> None:
    """Shapes alone show neither a missing key nor an option that fits no model: only a model built from them does."""
    # Imported here, because nothing else in this package needs the models.
    from glide_fast.models.factory import build

    with torch.device("meta"):
        model, _ = build(dict(options))
    require_fit(model, state, source=source)


def _model_config(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(kind, str) or not kind:
        raise invalid("kind", kind, "a name such as 'unet'")
    return {"format": FORMAT, "version": VERSION, "kind": kind, "options": _json_values("options", options)}


def _json_values(argument: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as JSON would give them back; InvalidInputError naming the first that JSON cannot hold."""
    if not isinstance(values, Mapping):
        raise invalid(argument, type(values).__name__, "a mapping from names to JSON values")
    plain = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise invalid(argument, name, "names that are str")
        try:
            # Two levels less than a file may have, since two levels of the file are around the value.
            plain[name] = parse_json(_encoded({name: value}), depth=MAX_DEPTH - 2)[name]
        except (TypeError, ValueError, RecursionError) as error:
            accepted = (
                "text, a finite number, true, false, None, or lists and mappings of these, not too deep"
            )
            raise invalid(f"{argument}[{name!r}]", value, accepted) from error
    if len(_encoded(plain)) > MAX_BYTES // 2:
        raise invalid(argument, f"{len(_encoded(plain)):,} bytes of JSON", f"at most {MAX_BYTES // 2:,}")
    return plain


def _encoded(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _fill(folder: Path, config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file(storable(state_dict), folder / WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_bytes(_encoded(config))


def _read_config(file: Path) -> dict[str, Any]:
    """A config file's content, its format and version checked."""
    try:
        config = parse_json(read_small(file, MAX_BYTES))
    except FileNotFoundError:
        raise CheckpointError(f"{file.parent} is not a glide_fast directory: it has no {file.name}") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        if is_training_run(file.parent):
            raise CheckpointError(
                f"{file.parent} is the directory of a training run; the model is in {file.parent / RUN_MODEL_NAME} once the "
                "run has ended"
            )
        raise CheckpointError(f'{file} was not written by glide_fast: it does not say "format": "{FORMAT}"')
    version = config.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(f"{file} has no usable version number: {reprlib.repr(version)}")
    if version > VERSION:
        raise CheckpointError(
            f"{file} has format version {reprlib.repr(version)}, and this glide_fast reads versions up to {VERSION}; "
            "update glide_fast"
        )
    return config


def _existing_directory(path: str | os.PathLike[str]) -> Path:
    folder = current_directory(path)
    if not os.path.exists(folder):
        raise CheckpointError(f"{os.fspath(path)} does not exist")
    if not os.path.isdir(folder):
        raise CheckpointError(
            f"{os.fspath(path)} is a file; a directory is needed (glide-fast convert makes one of a .pt, and so does "
            "glide_fast.checkpoints.convert_official)"
        )
    return folder


def _check_replaceable(path: Path) -> None:
    """Refuse to write over anything but a directory that holds nothing except what this module wrote."""
    if not os.path.exists(path):
        return
    if not os.path.isdir(path):
        raise CheckpointError(f"{path} is a file and will not be replaced by a directory")
    foreign = sorted(entry.name for entry in path.iterdir())
    for own in _own_entries(path):
        if own in foreign:
            foreign.remove(own)
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise CheckpointError(
            f"{path} holds what glide_fast did not write ({', '.join(foreign[:5])}{more}), which saving "
            "would delete; choose another directory"
        )


def _own_entries(path: Path) -> list[str]:
    """The names in `path` that this module wrote; none where the directory is foreign."""
    try:
        components = read_pipeline_directory(path).components.values()
    except CheckpointError:
        try:
            _read_config(path / CONFIG_NAME)
        except CheckpointError:
            return []
        return [CONFIG_NAME, WEIGHTS_NAME]
    for component in components:
        _check_replaceable(component)
    return [PIPELINE_NAME, *(component.name for component in components)]


@contextlib.contextmanager
def _building(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory to fill that becomes `path`; failures to write it are CheckpointErrors."""
    with reporting_failed_writes(path), atomic_directory(path) as temporary:
        yield temporary
