"""Stands for ``glide_text2im.clip.model_creation``."""

from __future__ import annotations

from pathlib import Path

from glide_fast.models.clip import CLIPModel, create_clip_model

__all__ = ["CLIPModel", "create_clip_model", "default_config_path"]


def default_config_path() -> str:
    """The released model's configuration as a file, for code that reads it; :func:`create_clip_model` needs none."""
    return str(Path(__file__).with_name("config.yaml"))
