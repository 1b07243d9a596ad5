"""What a pipeline's settings may be in its file; what a call's arguments may be is checked by each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glide_fast.diffusion.rules import RULES
from glide_fast.models.fields import Field, check_fields, choice, number, whole
from glide_fast.pipelines.checks import LARGEST


def _is_interval(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return value is None
    share = number(0, 1)
    return all(map(share.accepts, value)) and value[0] < value[1]


FIELDS: dict[str, Field] = {
    "num_inference_steps": whole(1, 100_000),
    "upsample_steps": whole(1, 100_000),
    "guidance_scale": number(0, LARGEST),
    "sampler": choice(*RULES),
    "upsample_sampler": choice(*RULES),
    "upsample_temp": number(0, LARGEST),
    "upsample_strength": number(0, 1, above=True),
    "guidance_interval": Field(_is_interval, "two numbers [low, high] with 0 <= low < high <= 1, or null"),
    "cache_interval": whole(1, 100_000),
}
"""The settings that calls read; others may be anything."""


def check_settings(settings: Mapping[str, Any]) -> None:
    """InvalidInputError naming the first setting that no call could use."""
    check_fields(FIELDS, settings)
