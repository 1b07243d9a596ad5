"""The noise-aware CLIP as a component of a pipeline: moving, saving and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from glide_fast.checkpoints import load_checkpoint, load_into
from glide_fast.checkpoints.directory import ModelDirectory
from glide_fast.errors import invalid
from glide_fast.models.clip import CLIPModel, create_clip_model
from glide_fast.pipelines.agreement import CLIP, ENCODERS, clip_config


def move(clip: Any, device: torch.device) -> None:
    """Move a CLIP to ``device``: one of glide_fast, or another with the same attributes."""
    for name in ENCODERS:
        encoder = getattr(clip, name, None)
        if isinstance(encoder, torch.nn.Module):
            encoder.to(device).eval()
    if isinstance(getattr(clip, "logit_scale", None), Tensor):
        clip.logit_scale = clip.logit_scale.to(device)
    if hasattr(clip, "device"):
        clip.device = device


def to_component(clip: Any) -> tuple[str, Mapping[str, Any], dict[str, Tensor]]:
    """Kind of model, options and state dict of a CLIP, as a pipeline directory holds them."""
    if not isinstance(clip, CLIPModel):
        raise invalid(
            "clip", type(clip).__name__, "a glide_fast CLIPModel; others cannot be saved with a pipeline"
        )
    state = {
        f"{name}.{key}": value for name in ENCODERS for key, value in getattr(clip, name).state_dict().items()
    }
    return CLIP, clip.config, state


def from_directory(directory: ModelDirectory) -> CLIPModel:
    """The CLIP that :func:`to_component` described, on the CPU.

    Raises CheckpointError as :func:`glide_fast.pipelines.agreement.clip_config`.
    """
    clip = create_clip_model(clip_config(directory), device="cpu")
    state = directory.read()
    for name in ENCODERS:
        own = {
            key.removeprefix(name + "."): value for key, value in state.items() if key.startswith(name + ".")
        }
        load_into(getattr(clip, name), own, source=f"{directory.path}/{name}")
    return clip


def official(*, progress: bool, cache_dir: Any) -> CLIPModel:
    """The released noise-aware CLIP, on the CPU; downloaded the first time."""
    clip = create_clip_model(device="cpu")
    for name, checkpoint in zip(ENCODERS, ("clip/text-enc", "clip/image-enc"), strict=True):
        state = load_checkpoint(checkpoint, "cpu", progress, cache_dir)
        load_into(getattr(clip, name), state, source=f"checkpoint {checkpoint!r}")
    return clip
