"""Configuration of the noise-aware CLIP: the values of the released model, and reading others from a file or mapping."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.models.config import MOST_PARAMETERS
from glide_fast.models.fields import Field, check_fields, number, text, whole

ClipConfig = dict[str, Any]


def clip_defaults() -> ClipConfig:
    """The released noise-aware CLIP (Nichol et al. 2021, section 4.4), under the official names.

    ``logit_scale`` is the factor itself, not its logarithm; ``n_timesteps`` 0 builds an image encoder for clean images. The
    beta schedule is that of the noise the image encoder was trained on; nothing is built from it.
    """
    return {
        "logit_scale": 100.0,
        "beta_schedule": "squaredcos_cap_v2",
        "n_timesteps": 1000,
        "image_size": 64,
        "patch_size": 4,
        "n_vocab": 65536,
        "max_text_len": 77,
        "n_embd": 512,
        "n_head_state_text": 64,
        "n_head_text": 8,
        "n_xf_blocks_text": 12,
        "n_head_state_image": 64,
        "n_head_image": 12,
        "n_xf_blocks_image": 12,
    }


FIELDS: dict[str, Field] = {
    "logit_scale": number(0, 1e6, above=True),
    "beta_schedule": text(100, "such as 'squaredcos_cap_v2'"),
    "n_timesteps": whole(0, 100_000),
    "image_size": whole(1, 4096),
    "patch_size": whole(1, 4096),
    "n_vocab": whole(1, 1_000_000),
    "max_text_len": whole(2, 8192),
    "n_embd": whole(1, 16384),
    "n_head_state_text": whole(1, 1024),
    "n_head_text": whole(1, 256),
    "n_xf_blocks_text": whole(1, 256),
    "n_head_state_image": whole(1, 1024),
    "n_head_image": whole(1, 256),
    "n_xf_blocks_image": whole(1, 256),
}
"""What each value may be by itself."""


def complete_clip_config(config: Mapping[str, Any]) -> ClipConfig:
    """Fill what ``config`` leaves out from the released values; raise ``InvalidInputError`` for names or values that are off."""
    defaults = clip_defaults()
    unknown = sorted(map(str, set(config) - set(defaults)))
    if unknown:
        raise invalid("config", unknown, "only " + ", ".join(defaults))
    complete = defaults | dict(config)
    check_fields(FIELDS, complete)
    if complete["image_size"] % complete["patch_size"]:
        raise invalid(
            "patch_size", complete["patch_size"], f"a divisor of image_size {complete['image_size']}"
        )
    count = parameters_about(complete)
    if count > MOST_PARAMETERS:
        raise invalid(
            "config", f"sizes that make {count:,} parameters", f"sizes that make at most {MOST_PARAMETERS:,}"
        )
    return complete


def parameters_about(config: Mapping[str, Any]) -> int:
    """Both encoders' number of parameters, by the large ones: matrices and embeddings."""
    text_width = config["n_head_text"] * config["n_head_state_text"]
    image_width = config["n_head_image"] * config["n_head_state_image"]
    patches = (config["image_size"] // config["patch_size"]) ** 2
    text_rows = config["n_vocab"] + config["max_text_len"] + config["n_embd"]
    image_rows = config["n_timesteps"] + patches + 3 * config["patch_size"] ** 2 + config["n_embd"]
    return text_width * (text_rows + 12 * text_width * config["n_xf_blocks_text"]) + image_width * (
        image_rows + 12 * image_width * config["n_xf_blocks_image"]
    )


def read_clip_config(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> ClipConfig:
    """A complete configuration from a YAML file, a mapping, or (None) the released values."""
    if source is None:
        return clip_defaults()
    if isinstance(source, Mapping):
        return complete_clip_config(source)
    if not isinstance(source, (str, os.PathLike)):
        raise invalid("config_path", source, "a path of a YAML file, a mapping, or None")
    # Only a configuration file needs these.
    import yaml  # type: ignore[import-untyped]

    from glide_fast.checkpoints.json_text import MAX_BYTES
    from glide_fast.checkpoints.paths import checked_path, read_small

    file = checked_path(source, "config_path")
    try:
        content = yaml.safe_load(read_small(file, MAX_BYTES).decode("utf-8"))
    except (
        OSError,
        ValueError,
        RecursionError,
        yaml.YAMLError,
    ) as error:  # a date of month 13 is a ValueError
        reason = str(error).strip().partition("\n")[0][:200]
        raise InvalidInputError(f"config_path: {file} cannot be read as YAML ({reason})") from error
    if not isinstance(content, Mapping):
        raise invalid("config_path", str(file), "a YAML file that holds a mapping")
    return complete_clip_config(content)
