"""Runs :mod:`glide_fast.bench.child` in a fresh process, on a pipeline; presets are written to a temporary pipeline first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from glide_fast.bench.settings import Settings
from glide_fast.errors import GlideFastError
from glide_fast.models.config import PRESETS

STEPS = 2
"""Steps of each stage by default: memory does not depend on their number, and the row of the first picture names it."""


@contextmanager
def directories(names: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """A block with the title and name of each pipeline; presets become one temporary directory, with fp32 weights."""
    pipelines = [(Path(name).name, name) for name in names if name not in PRESETS]
    presets = [name for name in names if name in PRESETS]
    if not presets:
        yield pipelines
        return
    with tempfile.TemporaryDirectory(prefix="glide-fast-bench-") as folder:
        _write(presets, Path(folder) / "pipeline")
        yield [(" + ".join(presets), str(Path(folder) / "pipeline")), *pipelines]


def _write(presets: Sequence[str], directory: Path) -> None:
    from glide_fast.bench.subject import subjects
    from glide_fast.checkpoints import save_pipeline_directory
    from glide_fast.pipelines.plan import DEFAULTS

    components = {}
    for name in presets:
        (subject,) = subjects([name])
        role = "upsampler" if subject.upsamples else "base"
        components[role] = ("unet", subject.options, subject.model.state_dict())
    save_pipeline_directory(directory, dict(DEFAULTS), components)


def run(
    name: str,
    settings: Settings,
    *,
    fast: bool,
    environment: Mapping[str, str] | None = None,
    pictures: int = 0,
) -> dict[str, Any]:
    """The JSON that a new child process prints.

    Args:
        environment: variables that the child's environment has besides this process's, or with other values.
        pictures: how many to sample and time after the first.

    Raises:
        GlideFastError: the child failed; the message has the last line that it wrote to stderr.
    """
    device = settings.target_device
    released = "fp16" if device.type == "cuda" else "fp32"
    asked = {
        "started": time.time(),
        "name": name,
        "fast": fast,
        "device": str(device),
        "dtype": settings.dtype if fast else released,
        "steps": settings.steps or STEPS,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "pictures": pictures,
    }
    done = subprocess.run(
        [sys.executable, "-m", "glide_fast.bench.child", json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GlideFastError(f"the measured process failed: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
