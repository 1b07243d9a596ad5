"""Making a pipeline directory out of trained models; ``glide-fast bundle`` on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from glide_fast.checkpoints import save_pipeline_directory
from glide_fast.checkpoints.directory import open_directory
from glide_fast.errors import invalid, naming_entries
from glide_fast.pipelines.agreement import require_stage
from glide_fast.pipelines.saved_settings import check_settings

STORAGE = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def bundle(
    base: str | Path,
    out: str | Path,
    upsampler: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    storage: str = "fp16",
) -> None:
    """Write a pipeline directory from exported models (``glide-fast train``'s ``model`` directories).

    Args:
        base, upsampler: model directories; without an upsampler the pipeline's pictures are the base's.
        out: directory to write.
        settings: the pipeline's defaults, such as ``num_inference_steps`` and ``guidance_scale``.
        storage: type of the weights on disk, fp16, bf16 or fp32; models are fp32 again once loaded.

    Raises:
        CheckpointError, InvalidInputError: before anything is written.
    """
    if storage not in STORAGE:
        raise invalid("storage", storage, ", ".join(STORAGE))
    with naming_entries("settings", settings or {}):
        check_settings(settings or {})
    parts = {"base": open_directory(base)}
    if upsampler is not None:
        parts["upsampler"] = open_directory(upsampler)
    for name, part in parts.items():
        require_stage(part, name, super_res=name == "upsampler")
    components = {}
    for name, part in parts.items():
        state = part.read()
        packed = {k: v.to(STORAGE[storage]) if v.is_floating_point() else v for k, v in state.items()}
        components[name] = (part.kind, part.options, packed)
    save_pipeline_directory(out, dict(settings or {}), components)
