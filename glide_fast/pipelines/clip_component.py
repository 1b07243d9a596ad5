"""The noise-aware CLIP as a component of a pipeline: moving it, and its place in the directory format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from glide_fast.checkpoints import load_checkpoint, load_into
from glide_fast.errors import CheckpointError, invalid
from glide_fast.models.clip import CLIPModel, create_clip_model

KIND = "clip"
"""What a CLIP is called in a pipeline directory."""

_ENCODERS = ("text_encoder", "image_encoder")


def move(clip: Any, device: torch.device) -> None:
    """Move a CLIP, ours or one of the same attributes, to ``device``."""
    for name in _ENCODERS:
        encoder = getattr(clip, name, None)
        if isinstance(encoder, torch.nn.Module):
            encoder.to(device).eval()
    if isinstance(getattr(clip, "logit_scale", None), Tensor):
        clip.logit_scale = clip.logit_scale.to(device)
    if hasattr(clip, "device"):
        clip.device = device


def to_component(clip: Any) -> tuple[str, Mapping[str, Any], dict[str, Tensor]]:
    """(kind, options, state dict) of a CLIP for a pipeline directory."""
    if not isinstance(clip, CLIPModel):
        raise invalid(
            "clip", type(clip).__name__, "a glide_fast CLIPModel; others cannot be saved with a pipeline"
        )
    state = {
        f"{name}.{key}": value
        for name in _ENCODERS
        for key, value in getattr(clip, name).state_dict().items()
    }
    return KIND, clip.config, state


def from_component(
    component: tuple[str, Mapping[str, Any], Mapping[str, Tensor]], *, source: str
) -> CLIPModel:
    """The CLIP that :func:`to_component` described, on the CPU."""
    kind, options, state = component
    if kind != KIND:
        raise CheckpointError(f"{source} is of kind {kind!r}, where a {KIND!r} is needed")
    clip = create_clip_model(options, device="cpu")
    for name in _ENCODERS:
        own = {
            key.removeprefix(name + "."): value for key, value in state.items() if key.startswith(name + ".")
        }
        load_into(getattr(clip, name), own, source=f"{source}/{name}")
    return clip


def official(*, progress: bool, cache_dir: Any) -> CLIPModel:
    """The released noise-aware CLIP, on the CPU; downloaded the first time."""
    clip = create_clip_model(device="cpu")
    for name, checkpoint in zip(_ENCODERS, ("clip/text-enc", "clip/image-enc"), strict=True):
        state = load_checkpoint(checkpoint, "cpu", progress, cache_dir)
        load_into(getattr(clip, name), state, source=f"checkpoint {checkpoint!r}")
    return clip
