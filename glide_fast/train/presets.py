"""Models to train, by name: small ones for one machine and an evening, and GLIDE's own."""

from __future__ import annotations

from typing import Any

from glide_fast.errors import invalid
from glide_fast.models import config

_SMALL: dict[str, Any] = {
    "image_size": 32,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2,4",
    "num_head_channels": 32,
    "attention_resolutions": "16,8",
    "dropout": 0.0,
    "text_ctx": 24,
    "xf_width": 128,
    "xf_layers": 3,
    "xf_heads": 4,
    "norm_groups": 8,
    "vocab_rows": -1,
    "inpaint": True,
}

_SMALL_UPSAMPLE = _SMALL | {
    "image_size": 128,
    "channel_mult": "1,1,2,2,4",
    "attention_resolutions": "8",
    "xf_layers": 2,
    "inpaint": False,
    "super_res": True,
    "low_res_size": 32,
}

_ENLARGES = 4

MODELS = ("small", "small-upsample", *config.PRESETS)
"""Names that :func:`model` knows."""


def model(name: str) -> dict[str, Any]:
    """``TrainConfig.model`` of a preset: "small" draws 32 px, "small-upsample" makes 128 px of them; the others are
    :data:`glide_fast.models.config.PRESETS`, with the vocabulary whole."""
    if name == "small":
        return dict(_SMALL)
    if name == "small-upsample":
        return dict(_SMALL_UPSAMPLE)
    if name not in MODELS:
        raise invalid("preset", name, "one of " + ", ".join(MODELS))
    options = config.preset(name)
    return options | {"low_res_size": options["image_size"] // _ENLARGES} if options["super_res"] else options
