"""A pipeline of tiny models with random weights, for testing the suite itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glide_fast.bench.subject import random_model
from glide_fast.checkpoints import save_pipeline_directory
from glide_fast.models.config import Options, complete

TINY_BASE: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 16,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "num_head_channels": 16,
    "attention_resolutions": "8",
    "norm_groups": 4,
    "text_ctx": 8,
    "xf_width": 32,
    "xf_layers": 1,
    "xf_heads": 1,
    "vocab_rows": -1,
}
TINY_UPSAMPLER = TINY_BASE | {"super_res": True, "image_size": 32, "channel_mult": "1,1,2"}


def pipeline(directory: Path, base: Options = TINY_BASE, upsampler: Options = TINY_UPSAMPLER) -> Path:
    """Write the pipeline to a directory, unless it is there already."""
    if not directory.exists():
        settings = {"num_inference_steps": 3, "upsample_steps": 2, "guidance_scale": 3.0}
        components = {}
        for name, options in (("base", base), ("upsampler", upsampler)):
            options = complete({"vocab_rows": 8} | dict(options) | {"use_fp16": False})
            if options["vocab_rows"] < 0:
                options["vocab_rows"] = 8
            components[name] = ("unet", options, random_model(options).state_dict())
        save_pipeline_directory(directory, settings, components)
    return directory
