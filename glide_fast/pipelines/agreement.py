"""What a model directory says of its model, held against itself and against its weights before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
"""Prefixes of a CLIP's tensors, and which model each encoder is."""

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
    shapes = directory.shapes()
    found = _inferred(directory, shapes, UNET)
    sizes = {name: _comparable(name, options) for name in found}
    weights = {name: _comparable(name, options | found) for name in found}
    # Stored rows leave a trace, the whole vocabulary leaves none.
    sizes["vocab_rows"], weights["vocab_rows"] = options["vocab_rows"], found.get("vocab_rows", 0)
    if not options["xf_width"]:
        del sizes["vocab_rows"]
    _require_equal(directory, sizes, weights)
    if options["xf_width"] and bool(options["xf_ar"]) != ("unemb.weight" in shapes):
        has = "has" if "unemb.weight" in shapes else "lacks"
        raise CheckpointError(
            f"{directory.config_file}: xf_ar is {options['xf_ar']!r}, and {directory.weights_file.name} {has} the weights of "
            "an autoregressive head (unemb)"
        )
    _require_count(directory, shapes, parameters_about(options))
    return options


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
        found = _inferred(directory, own, kind)
        _require_equal(directory, config, found)
        side = kind.removeprefix("clip_")
        width = own["blocks.input.w_pos"][-1]
        heads, size = config[f"n_head_{side}"], config[f"n_head_state_{side}"]
        if heads * size != width:
            raise CheckpointError(
                f"{directory.config_file}: n_head_{side} {heads} times n_head_state_{side} {size} is not {width}, the width "
                f"that {directory.weights_file.name} has"
            )
    _require_count(directory, shapes, clip_parameters_about(config))
    return config


def _require_kind(directory: ModelDirectory, kind: str) -> None:
    if directory.kind != kind:
        raise CheckpointError(
            f"{directory.config_file} is of kind {directory.kind[:100]!r}, where a {kind!r} is needed"
        )


def _inferred(directory: ModelDirectory, shapes: Shapes, kind: str) -> dict[str, Any]:
    if infer_kind(shapes) != kind:
        raise CheckpointError(f"{directory.weights_file} does not hold the weights of a {kind!r}")
    try:
        return infer_from_shapes(shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{directory.weights_file}: {error}") from error


def _comparable(name: str, options: Options) -> Any:
    """An option in the one form in which two that mean the same are equal."""
    if name == "channel_mult":
        return level_widths(options)
    if name == "attention_resolutions":
        size = options["image_size"]
        return sorted(size >> level for level in attended_levels(options))
    return options[name]


def _require_equal(directory: ModelDirectory, said: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name in said and said[name] != value:
            raise CheckpointError(
                f"{directory.config_file}: {name} is {said[name]!r}, and {directory.weights_file.name} has the weights of a "
                f"model with {value!r}"
            )


def _require_count(directory: ModelDirectory, shapes: Shapes, about: int) -> None:
    """Tensors without elements state any size for nothing, and one that no model has may have any size."""
    count = sum(math.prod(shape) for shape in shapes.values())
    most = 2 * about + 1_000_000
    if not about <= count <= most:
        raise CheckpointError(
            f"{directory.config_file}: the sizes are of a model with {about:,} to {most:,} parameters, and "
            f"{directory.weights_file.name} has {count:,}"
        )
