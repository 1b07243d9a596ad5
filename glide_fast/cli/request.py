"""What ``sample``, ``inpaint`` and ``upsample`` ask for, in one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_fast.cli.files import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

    from glide_fast.pipelines import PipelineOutput

Call = Callable[..., "PipelineOutput"]
"""``call(pipeline, prompts, **keyword arguments of a pipeline call)``."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    prompts: one a picture, with repeats; each: how many in a row have the same. seed: of the first picture, None to draw one.
    options: keyword arguments of the pipeline's call that were given. stages: those that run, of "base" and "upsampler".
    about: more to record in the settings. resume: pictures that exist with the same settings are left alone.
    """

    model: str
    device: str | None
    dtype: str | None
    accelerate: bool
    prompts: list[str]
    each: int
    seed: int | None
    layout: Layout
    low_res: bool
    overwrite: bool
    batch_size: int
    options: dict[str, Any]
    call: Call
    stages: tuple[str, ...] = ("base", "upsampler")
    about: dict[str, Any] | None = None
    resume: bool = False


@dataclass
class Picture:
    """One picture of a run.

    texts: its prompt and negative prompt. unknown_words: their words that the model does not know. image: None until it is made.
    """

    prompt: str
    seed: int
    file: Path | None
    texts: tuple[str, ...]
    unknown_words: list[str]
    image: Image | None = None
    low_res: Image | None = None
    skipped: bool = False
