"""A data set, models and settings small enough to train and sample in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glide_fast.checkpoints import save_pipeline_directory
from glide_fast.data.dataset import FORMAT
from glide_fast.models.factory import build
from glide_fast.models.layers import CompactEmbedding
from glide_fast.text import get_encoder
from glide_fast.train.config import TrainConfig

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 80, 220), "white": (250, 250, 250)}
SHAPES = ("square", "stripe")

MODEL: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 16,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "num_head_channels": 16,
    "attention_resolutions": "8",
    "dropout": 0.1,
    "norm_groups": 4,
    "text_ctx": 8,
    "xf_width": 32,
    "xf_layers": 1,
    "xf_heads": 1,
    "vocab_rows": -1,
}
"""A base model of 16 px; dropout stays on, so that a resumed run must draw it alike."""

WORDS = tuple(f" {word}" for word in (*COLOURS, *SHAPES))
"""The words that a tiny pipeline knows besides "a"; each is one token."""

UPSAMPLER: dict[str, Any] = MODEL | {"super_res": True, "low_res_size": 8}
"""An upsampler from 8 to 16 px."""


def write_data_set(directory: Path, count: int = 24, size: int = 16) -> Path:
    """A folder as `SceneDataset` reads it: a coloured square or stripe on black, no two pictures alike."""
    rng = np.random.default_rng(5)
    images = np.zeros((count, size, size, 3), np.uint8)
    records = []
    for index in range(count):
        colour = list(COLOURS)[index % len(COLOURS)]
        shape = SHAPES[index // len(COLOURS) % len(SHAPES)]
        height, width = (size // 2, size // 2) if shape == "square" else (size // 4, size)
        top = rng.integers(0, size - height + 1)
        left = rng.integers(0, size - width + 1)
        images[index, top : top + height, left : left + width] = COLOURS[colour]
        images[index] += rng.integers(0, 5, (size, size, 1), dtype=np.uint8)
        records.append({"seed": index, "caption": f"a {colour} {shape}", "attributes": {}})
    directory.mkdir(parents=True)
    np.save(directory / "images.npy", images)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "captions.jsonl").write_text(lines, encoding="utf-8")
    (directory / "meta.json").write_text(json.dumps({"format": FORMAT, "count": count, "size": size}))
    return directory


def train_config(data: Path, /, **changes: Any) -> TrainConfig:
    """Six fp32 steps, each logged and saved."""
    settings: dict[str, Any] = {
        "model": MODEL,
        "data": str(data),
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "precision": "fp32",
        "log_every": 1,
        "save_every": 1,
        "sample_every": 0,
    }
    return TrainConfig(**settings | changes)


def write_pipeline(directory: Path, *, upsampler: bool = True) -> Path:
    """A pipeline directory of random weights: 16 px, enlarged to 32 px, in very few steps."""
    torch.manual_seed(3)
    kinds = {"base": MODEL}
    if upsampler:
        kinds["upsampler"] = MODEL | {"super_res": True, "image_size": 32, "channel_mult": "1,1,2"}
    components = {}
    for name, changes in kinds.items():
        options = changes | {"vocab_rows": 2 + len(WORDS), "use_fp16": False}
        model, _ = build(options)
        assert isinstance(model.token_embedding, CompactEmbedding)
        encoder = get_encoder()
        model.token_embedding.assign([token for text in ("a", *WORDS) for token in encoder.encode(text)])
        state = model.state_dict()
        # A fresh network's last convolution is zero, which would make every prompt draw the same.
        state["out.2.weight"] = torch.randn_like(state["out.2.weight"]) * 0.05
        components[name] = ("unet", options, state)
    settings = {"num_inference_steps": 4, "upsample_steps": 2, "guidance_scale": 2.0, "sampler": "ddim"}
    save_pipeline_directory(directory, settings, components)
    return directory
