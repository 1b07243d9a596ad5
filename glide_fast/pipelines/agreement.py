"""Checks, before anything is built, that a model directory's options go together and fit its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glide_fast.checkpoints.directory import ModelDirectory, naming
from glide_fast.checkpoints.infer import infer_from_shapes, infer_kind
from glide_fast.errors import CheckpointError
from glide_fast.models.clip_config import complete_clip_config
from glide_fast.models.clip_config import parameters_about as clip_parameters_about
from glide_fast.models.config import (
    Options,
    attended_levels,
    check_options,
    complete,
    level_widths,
    parameters_about,
)

UNET, CLIP = "unet", "clip"
"""Kinds of models in a pipeline directory."""

ENCODERS = {"text_encoder": "clip_text", "image_encoder": "clip_image"}
"""The two encoders of a CLIP: the prefix of the names of their tensors, and the ``kind`` in their config files."""

Shapes = Mapping[str, tuple[int, ...]]


def unet_options(directory: ModelDirectory) -> Options:
    """The complete options of a UNet's directory.

    Raises CheckpointError naming the file and the field where an option is unknown, of a wrong type or out of range, where
    options do not go together, and where they make a model of other sizes than the weights have.
    """
    _require_kind(directory, UNET)
    with naming(directory.config_file):
        options = complete(directory.options)
        check_options(options)
    require_unet_weights(options, directory.shapes(), directory.config_file, directory.weights_file)
    return options


def require_stage(directory: ModelDirectory, component: str, *, super_res: bool) -> None:
    """CheckpointError, as :func:`unet_options`, where a UNet's directory cannot be a pipeline's base, or its upsampler."""
    if unet_options(directory)["super_res"] != super_res:
        needed = "true" if super_res else "false"
        raise CheckpointError(
            f"{directory.config_file}: super_res is not {needed}, as the component {component!r} needs"
        )


def require_unet_weights(options: Options, shapes: Shapes, config_file: Path, weights_file: Path) -> None:
    """CheckpointError naming the files and the option where checked options make a model of other sizes than ``shapes``.

    Args:
        options: complete.
        shapes: of every tensor of the weights, by name.
        config_file, weights_file: where options and weights come from.
    """
    found = _inferred(weights_file, shapes, UNET)
    sizes = {name: _comparable(name, options) for name in found}
    weights = {name: _comparable(name, options | found) for name in found}
    # Stored rows leave a trace, the whole vocabulary leaves none.
    sizes["vocab_rows"], weights["vocab_rows"] = options["vocab_rows"], found.get("vocab_rows", 0)
    if not options["xf_width"]:
        del sizes["vocab_rows"]
    _require_equal(config_file, weights_file, sizes, weights)
    if options["xf_width"] and bool(options["xf_ar"]) != ("unemb.weight" in shapes):
        has = "has" if "unemb.weight" in shapes else "lacks"
        raise CheckpointError(
            f"{config_file}: xf_ar is {options['xf_ar']!r}, and {weights_file.name} {has} the weights of "
            "an autoregressive head (unemb)"
        )
    _require_count(config_file, weights_file, shapes, parameters_about(options))


def clip_config(directory: ModelDirectory) -> dict[str, Any]:
    """The complete configuration of a CLIP's directory; CheckpointError as :func:`unet_options`."""
    _require_kind(directory, CLIP)
    with naming(directory.config_file):
        config = complete_clip_config(directory.options)
    shapes = directory.shapes()
    for prefix, kind in ENCODERS.items():
        own = {
            name.removeprefix(prefix + "."): shape
            for name, shape in shapes.items()
            if name.startswith(prefix + ".")
        }
        found = _inferred(directory.weights_file, own, kind)
        _require_equal(directory.config_file, directory.weights_file, config, found)
        side = kind.removeprefix("clip_")
        width = own["blocks.input.w_pos"][-1]
        heads, size = config[f"n_head_{side}"], config[f"n_head_state_{side}"]
        if heads * size != width:
            raise CheckpointError(
                f"{directory.config_file}: n_head_{side} {heads} times n_head_state_{side} {size} is not {width}, the width "
                f"that {directory.weights_file.name} has"
            )
    _require_count(directory.config_file, directory.weights_file, shapes, clip_parameters_about(config))
    return config


def _require_kind(directory: ModelDirectory, kind: str) -> None:
    if directory.kind != kind:
        raise CheckpointError(
            f"{directory.config_file} is of kind {directory.kind[:100]!r}, where a {kind!r} is needed"
        )


def _inferred(weights_file: Path, shapes: Shapes, kind: str) -> dict[str, Any]:
    if infer_kind(shapes) != kind:
        raise CheckpointError(f"{weights_file} does not hold the weights of a {kind!r}")
    try:
        return infer_from_shapes(shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{weights_file}: {error}") from error


def _comparable(name: str, options: Options) -> Any:
    """An option's value in a form in which values that mean the same are equal."""
    if name == "channel_mult":
        return level_widths(options)
    if name == "attention_resolutions":
        size = options["image_size"]
        return sorted(size >> level for level in attended_levels(options))
    return options[name]


def _require_equal(
    config_file: Path, weights_file: Path, stated: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    for name, value in found.items():
        if name in stated and stated[name] != value:
            raise CheckpointError(
                f"{config_file}: {name} is {stated[name]!r}, and {weights_file.name} has the weights of a "
                f"model with {value!r}"
            )


def _require_count(config_file: Path, weights_file: Path, shapes: Shapes, about: int) -> None:
    """CheckpointError unless the weights have about as many parameters as the options say.

    The other checks do not see tensors without elements, whatever size they claim, nor tensors that no model has.
    """
    count = sum(math.prod(shape) for shape in shapes.values())
    most = 2 * about + 1_000_000
    if not about <= count <= most:
        raise CheckpointError(
            f"{config_file}: the sizes are of a model with {about:,} to {most:,} parameters, and "
            f"{weights_file.name} has {count:,}"
        )
