"""Training throughput: whole optimiser steps of the trainer, on random pictures."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.gpu.part import Outcome, Part, Setting, conclude
from benchmarks.gpu.tiny import TINY_BASE
from glide_fast.bench.timing import summarise
from glide_fast.data.dataset import FORMAT
from glide_fast.train import presets
from glide_fast.train.config import TrainConfig
from glide_fast.train.loop import Trainer

PICTURES = 64
WARM, STEPS, SECONDS = 3, 60, 25.0
"""Steps before timing begins, and the most steps and seconds that are timed."""


class Recipe(NamedTuple):
    """The model to train, and how."""

    model: str
    batch_size: int
    precision: str = "bf16"
    compile: bool = False


RECIPES = (
    Recipe("small", 32),  # as the shipped model was trained
    Recipe("small-upsample", 32),
    Recipe("small", 128),
    Recipe("small", 128, compile=True),
    Recipe("base", 8),
    Recipe("base", 32),
    Recipe("upsample", 4),
)
TINY = Recipe("tiny", 2)


def write_pictures(directory: Path, side: int, count: int = PICTURES) -> Path:
    """A data set of noise with captions, as :class:`glide_fast.data.dataset.SceneDataset` reads it."""
    directory.mkdir(parents=True)
    np.save(
        directory / "images.npy", np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    )
    words = itertools.cycle(itertools.product(("a red", "a blue", "two green"), ("cube", "ball", "tree")))
    captions = (" ".join(next(words)) for _ in range(count))
    lines = (json.dumps({"seed": i, "caption": text, "attributes": {}}) for i, text in enumerate(captions))
    (directory / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "meta.json").write_text(json.dumps({"format": FORMAT, "count": count, "size": side}))
    return directory


def measure(recipe: Recipe, device: str, folder: Path, steps: int = STEPS) -> dict[str, str]:
    """A row of results; red where a loss or a gradient is not a number."""
    options = TINY_BASE if recipe == TINY else presets.model(recipe.model)
    data = write_pictures(folder / "data", options["image_size"])
    config = TrainConfig(
        model=options,
        data=str(data),
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        compile=recipe.compile,
        sample_every=0,
    )
    trainer = Trainer(config, folder / "run", device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    values = [trainer.train_step() for _ in range(WARM)]
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while len(times) < steps and (time.monotonic() < end or len(times) < 2):
        start = time.perf_counter()
        values.append(trainer.train_step())  # returns losses on the host, so the step has ended then
        times.append(time.perf_counter() - start)
    taken = summarise(times)
    finite = all(math.isfinite(value[name]) for value in values for name in ("loss", "grad_norm"))
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.2f}" if device == "cuda" else ""
    return {
        "gate": "green" if finite else "red",
        "images_per_s": f"{recipe.batch_size / taken.median * 1e6:.2f}" if finite else "refused",
        "median_ms": f"{taken.median / 1e3:.2f}",
        "q1_ms": f"{taken.lower / 1e3:.2f}",
        "q3_ms": f"{taken.upper / 1e3:.2f}",
        "steps": str(len(times)),
        "peak_gib": peak,
        "note": "" if finite else "a loss or a gradient is not finite",
    }


def run(setting: Setting) -> Outcome:
    table = setting.table("training", ("model", "batch", "precision", "compile"))
    for recipe in (TINY,) if setting.small else RECIPES:
        key = (recipe.model, str(recipe.batch_size), recipe.precision, str(recipe.compile))
        if table.find(*key):
            continue
        if setting.time_is_up:
            return conclude(table.file, table.red(), " ".join(key))
        with tempfile.TemporaryDirectory() as scratch:
            steps = 3 if setting.small else STEPS
            row = measure(recipe, setting.device, Path(scratch), steps)
        table.add(dict(zip(table.key, key, strict=True)) | row)
        print(f"{' '.join(key)}: {row['images_per_s']} images/s", flush=True)
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    return conclude(table.file, table.red())


def parts(setting: Setting) -> tuple[Part, ...]:
    return (Part("training", "images a second of the trainer", run, 300, least=60),)
