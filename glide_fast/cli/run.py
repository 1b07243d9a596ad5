"""Running a request of ``sample``, ``inpaint`` or ``upsample``: from checked arguments to files."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from glide_fast.cli.paths import require_free_files
from glide_fast.cli.pictures import columns_of, make_grid
from glide_fast.cli.progress import PictureBar
from glide_fast.cli.report import Report
from glide_fast.cli.request import Picture, Request
from glide_fast.cli.resume import resume
from glide_fast.errors import InvalidInputError, invalid
from glide_fast.png import low_res_file, record, write_png

if TYPE_CHECKING:
    from glide_fast.pipelines import GlidePipeline


def run(request: Request, *, as_json: bool, quiet: bool) -> None:
    """Sample the pictures, write each batch when it is ready, and print a report.

    Raises InvalidInputError before any work; errors of the pipeline pass through.
    """
    _check(request)
    start = time.perf_counter()
    pipeline = _load(request, progress=not quiet)
    loaded = time.perf_counter()
    settings, steps, pictures, said = _plan(request, pipeline)
    waiting = [picture for picture in pictures if not picture.skipped]
    if not quiet:
        _warn(said, waiting)
    peak: int | None = None
    with PictureBar(len(waiting), steps, enabled=not quiet) as bar, _already_warned(quiet):
        for first in range(0, len(waiting), request.batch_size):
            batch = waiting[first : first + request.batch_size]
            bar.start(len(batch))
            peak = max(peak or 0, _make(request, pipeline, batch, bar) or 0) or None
            for picture in batch:
                _write(request, picture, settings)
    sampled = time.perf_counter()
    _write_grid(request, pictures, settings)
    done = Report(
        request, settings, steps, pictures, str(pipeline.device), loaded - start, sampled - loaded, peak
    )
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2))
    elif not quiet:
        for file in request.layout.all(request.low_res):
            typer.echo(str(file))
        typer.echo(done.as_line(), err=True)


def _check(request: Request) -> None:
    """Raise InvalidInputError for a wrong request, as far as this can be seen before the model is loaded or downloaded."""
    require_free_files("output", request.layout.all(request.low_res), request.overwrite or request.resume)
    from glide_fast.diffusion.rules import get_rule
    from glide_fast.text import validate_prompts

    validate_prompts(request.prompts)
    if "sampler" in request.options:
        get_rule(request.options["sampler"], argument="sampler")


def _load(request: Request, progress: bool) -> GlidePipeline:
    from glide_fast.pipelines import GlidePipeline

    pipeline = GlidePipeline.from_pretrained(
        request.model,
        device=request.device,
        dtype=request.dtype,
        accelerate=request.accelerate,
        progress=progress,
    )
    if "base" in request.stages and pipeline.base is None:
        raise invalid(
            "name", request.model, "a model with a base; one that only enlarges is for glide-fast upsample"
        )
    if "base" not in request.stages and pipeline.upsampler is None:
        raise invalid("name", request.model, "a model with an upsampler")
    if request.low_res and (pipeline.base is None or pipeline.upsampler is None):
        raise InvalidInputError(
            "low_res: this pipeline has one stage only; accepted: a pipeline with an upsampler"
        )
    return pipeline


def _warn(said: dict[str, list[UserWarning]], pictures: list[Picture]) -> None:
    """Warn once, before the first picture, about words that the model does not know or does not read."""
    for text in dict.fromkeys(text for picture in pictures for text in picture.texts):
        for warning in said.get(text, ()):
            warnings.warn(warning, stacklevel=2)


@contextlib.contextmanager
def _already_warned(quiet: bool) -> Iterator[None]:
    """A block in which the pipeline's calls give no further warnings about prompts."""
    from glide_fast.text import PromptTruncatedWarning, UnknownWordsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordsWarning)
        # A CLIP reads prompts of another length; its warning is another one.
        reads = "" if quiet else r"(?s:.*) and the model reads"
        warnings.filterwarnings("ignore", reads, PromptTruncatedWarning)
        yield


def _plan(
    request: Request, pipeline: GlidePipeline
) -> tuple[dict[str, Any], dict[str, int], list[Picture], dict[str, list[UserWarning]]]:
    """Check the request as the pipeline's call would, and plan the pictures.

    Returns:
        The settings to record; the steps that each stage takes; the pictures with their seeds, those that exist marked as
        skipped; and the warnings for each prompt.

    Raises:
        InvalidInputError: for anything that the pipeline would refuse.
    """
    from glide_fast.pipelines.plan import make_plan
    from glide_fast.pipelines.settings import settings_of, steps_of
    from glide_fast.pipelines.words import find_cut_prompts, find_unknown_words

    components = pipeline.components
    first = secrets.randbelow(2**32) if request.seed is None else request.seed
    seeds = [first + index for index in range(len(request.prompts))]
    plan = make_plan(components, request.prompts, request.options | {"seed": first})
    settings = settings_of(components, plan, request.stages) | (request.about or {})
    unknown = find_unknown_words(components, plan, base="base" in request.stages)
    cut = find_cut_prompts(components, plan, base="base" in request.stages)
    said: dict[str, list[UserWarning]] = {}
    for warnings_by_text in (unknown, cut):
        for text, warning in warnings_by_text.items():
            said.setdefault(text, []).append(warning)
    pictures = []
    for number, file in enumerate(request.layout.pictures):
        texts = (plan.prompts[number], plan.negative_prompts[number])
        words = [word for text in texts if text in unknown for word in unknown[text].words]
        pictures.append(Picture(request.prompts[number], seeds[number], file, texts, words))
    if request.resume and not request.overwrite:
        resume(request, pictures, settings)
    return settings, steps_of(components, plan, request.stages), pictures, said


def _make(request: Request, pipeline: GlidePipeline, batch: list[Picture], bar: PictureBar) -> int | None:
    """Make a batch of pictures; returns the bytes of memory at the peak."""
    result = request.call(
        pipeline,
        [picture.prompt for picture in batch],
        seed=[picture.seed for picture in batch],
        output_type="pil",
        progress=False,
        callback_on_step_end=bar.step,
        **request.options,
    )
    for picture, image, low_res in zip(batch, result.images, result.low_res, strict=True):
        picture.image, picture.low_res = image, low_res
    return result.peak_memory


def _write(request: Request, picture: Picture, settings: dict[str, Any]) -> None:
    """Write a picture to its file, if it has one, and free its memory unless a grid needs it."""
    if picture.file is None:
        return
    assert picture.image is not None and picture.low_res is not None
    text = record([picture.prompt], [picture.seed], settings)
    picture.file.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture.file, picture.image, text)
    if request.low_res:
        write_png(low_res_file(picture.file), picture.low_res, text | {"stage": "base"})
    if request.layout.grid is None:
        picture.image = picture.low_res = None


def _write_grid(request: Request, pictures: list[Picture], settings: dict[str, Any]) -> None:
    if request.layout.grid is None:
        return
    columns = columns_of(len(pictures) // request.each, request.each)
    text = record([picture.prompt for picture in pictures], [picture.seed for picture in pictures], settings)
    images = [picture.image for picture in pictures if picture.image is not None]
    write_png(request.layout.grid, make_grid(images, columns), text)
    if request.low_res:
        smaller = [picture.low_res for picture in pictures if picture.low_res is not None]
        write_png(low_res_file(request.layout.grid), make_grid(smaller, columns), text | {"stage": "base"})
