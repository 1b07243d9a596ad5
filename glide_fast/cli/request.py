"""The request that ``sample``, ``inpaint`` and ``upsample`` make of their arguments."""

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
    """Which pictures to sample, how, and where to write them.

    prompts: one for each picture. each: how many pictures in a row have the same prompt. seed: of the first picture; None draws
    one. options: the options of the pipeline's call that the command line sets. stages: which of "base" and "upsampler" run.
    about: further entries for the recorded settings. resume: keep files of pictures that have the same settings.
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

    texts: the prompt and the negative prompt. unknown_words: words in them that the model does not know. image: None until it is
    sampled. skipped: whether its file exists already and is kept.
    """

    prompt: str
    seed: int
    file: Path | None
    texts: tuple[str, ...]
    unknown_words: list[str]
    image: Image | None = None
    low_res: Image | None = None
    skipped: bool = False
