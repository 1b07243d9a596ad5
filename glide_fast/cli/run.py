"""From checked arguments to files: what ``sample``, ``inpaint`` and ``upsample`` do alike."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from glide_fast import __version__
from glide_fast.cli.files import Layout, low_res_file, refuse_existing
from glide_fast.cli.pictures import columns_of, make_grid, read_text, record, write_png
from glide_fast.cli.progress import PictureBar
from glide_fast.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from glide_fast.pipelines import GlidePipeline, PipelineOutput

Call = Callable[..., "PipelineOutput"]
"""``call(pipeline, prompts, **keyword arguments of a pipeline call)``."""

_SETTINGS = {
    "base": ("num_inference_steps", "guidance_scale", "sampler"),
    "upsampler": ("upsample_steps", "upsample_sampler", "upsample_temp"),
}
_STEPS = {"base": "num_inference_steps", "upsampler": "upsample_steps"}


@dataclass(frozen=True)
class Request:
    """What is asked for.

    prompts: one a picture, with repeats. columns: of the grid. seed: of the first picture, None to draw one. resume: pictures
    that exist with the same settings are left alone. options: keyword arguments of the pipeline's call that were given. about:
    more to record in the settings. stages: those that run, of "base" and "upsampler".
    """

    model: str
    device: str | None
    dtype: str | None
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
    """One picture of a run; ``image`` is None until it is made."""

    prompt: str
    seed: int
    file: Path | None
    image: Image | None = None
    low_res: Image | None = None
    skipped: bool = False


def run(request: Request, *, as_json: bool, quiet: bool) -> None:
    """Make the pictures, write them as they are ready, and print what was done.

    Raises InvalidInputError before any work, and what the pipeline raises.
    """
    _check(request)
    start = time.perf_counter()
    pipeline = _load(request, progress=not quiet)
    loaded = time.perf_counter()
    settings = _settings(request, pipeline)
    pictures = _pictures(request, settings)
    waiting = [picture for picture in pictures if not picture.skipped]
    stages = {name: settings[_STEPS[name]] for name in request.stages if _STEPS[name] in settings}
    with PictureBar(len(waiting), stages, enabled=not quiet) as bar:
        for first in range(0, len(waiting), request.batch_size):
            batch = waiting[first : first + request.batch_size]
            bar.start(len(batch))
            _make(request, pipeline, batch, bar)
            for picture in batch:
                _write(request, picture, settings)
    seconds = time.perf_counter() - loaded
    _write_grid(request, pictures, settings)
    speed = len(waiting) / seconds if waiting else None
    if as_json:
        report = {
            "version": __version__,
            "device": str(pipeline.device),
            "settings": settings,
            "images": [_entry(request, picture) for picture in pictures],
            "grid": None if request.layout.grid is None else str(request.layout.grid),
            "seconds": {"load": round(loaded - start, 3), "sample": round(seconds, 3)},
            "images_per_second": None if speed is None else round(speed, 4),
        }
        typer.echo(json.dumps(report, indent=2))
    elif not quiet:
        for file in request.layout.all(request.low_res):
            typer.echo(str(file))
        skipped = len(pictures) - len(waiting)
        done = f"{len(waiting)} made" + (f", {skipped} there already" if skipped else "")
        seeds = ", ".join(str(picture.seed) for picture in waiting[:4]) + (
            ", ..." if len(waiting) > 4 else ""
        )
        rate = f" in {seconds:.1f} s ({speed:.2g} images/s); seeds {seeds}" if speed else ""
        typer.echo(f"{done}{rate}; {pipeline.device}, {settings['dtype']}", err=True)


def _check(request: Request) -> None:
    """What can be known to be wrong before a model is loaded, which may mean a long download."""
    if not request.resume:
        refuse_existing(request.layout.all(request.low_res), request.overwrite)
    elif request.layout.grid is not None:
        refuse_existing(Layout([], request.layout.grid).all(request.low_res), request.overwrite)
    from glide_fast.diffusion.rules import get_rule
    from glide_fast.text import validate_prompts

    validate_prompts(request.prompts)
    if "sampler" in request.options:
        get_rule(request.options["sampler"], argument="sampler")


def _load(request: Request, progress: bool) -> GlidePipeline:
    from glide_fast.pipelines import GlidePipeline

    pipeline = GlidePipeline.from_pretrained(
        request.model, device=request.device, dtype=request.dtype, progress=progress
    )
    if request.low_res and (pipeline.base is None or pipeline.upsampler is None):
        raise InvalidInputError(
            "low_res: this pipeline has one stage only; accepted: a pipeline with an upsampler"
        )
    return pipeline


def _settings(request: Request, pipeline: GlidePipeline) -> dict[str, Any]:
    """All that decides the pictures besides prompt and seed, the model's own defaults filled in."""
    from glide_fast.pipelines.plan import DEFAULTS

    values = {**DEFAULTS, **pipeline.settings, **request.options}
    present = {"base": pipeline.base, "upsampler": pipeline.upsampler}
    stages = [name for name in request.stages if present[name] is not None]
    settings: dict[str, Any] = {
        "model": Path(request.model).name,  # not where it lies: pictures are passed on
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        **(request.about or {}),
    }
    for stage in stages:
        settings |= {name: values[name] for name in _SETTINGS[stage]}
    return settings | {name: request.options[name] for name in request.options if name not in settings}


def _pictures(request: Request, settings: dict[str, Any]) -> list[Picture]:
    """Every picture with its seed, those that are there already marked; InvalidInputError where one is another's."""
    count = len(request.prompts)
    first = secrets.randbelow(2**32) if request.seed is None else request.seed
    pictures = []
    for index, (prompt, file) in enumerate(zip(request.prompts, request.layout.pictures, strict=True)):
        picture = Picture(prompt, first + index, file)
        if request.resume and file is not None and file.exists() and not request.overwrite:
            _resume(request, picture, settings)
        pictures.append(picture)
    assert len(pictures) == count
    return pictures


def _resume(request: Request, picture: Picture, settings: dict[str, Any]) -> None:
    assert picture.file is not None
    text = read_text(picture.file)
    seed = picture.seed
    if request.seed is None and text.get("seed", "").isdecimal():
        seed = int(text["seed"])  # any seed will do, so the one it was made with does
    wanted = record([picture.prompt], [seed], settings)
    differing = [name for name in ("prompt", "seed", "settings") if text.get(name) != wanted[name]]
    if differing:
        shown = "; ".join(f"{name}: {text.get(name)!r} there, {wanted[name]!r} now" for name in differing)
        raise InvalidInputError(
            f"output: {picture.file} was made differently ({shown}); accepted: another directory, or --overwrite"
        )
    if request.low_res and not low_res_file(picture.file).exists():
        picture.seed = seed  # made again for its first stage
        return
    from PIL import Image

    picture.seed, picture.skipped = seed, True
    if request.layout.grid is not None:
        picture.image = Image.open(picture.file).convert("RGB")
        if request.low_res:
            picture.low_res = Image.open(low_res_file(picture.file)).convert("RGB")


def _make(request: Request, pipeline: GlidePipeline, batch: list[Picture], bar: PictureBar) -> None:
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


def _write(request: Request, picture: Picture, settings: dict[str, Any]) -> None:
    """Write a picture that has a file of its own, and let go of it where no grid needs it."""
    if picture.file is None:
        return
    assert picture.image is not None and picture.low_res is not None
    text = record([picture.prompt], [picture.seed], settings)
    picture.file.parent.mkdir(parents=True, exist_ok=True)
    if request.low_res:
        write_png(low_res_file(picture.file), picture.low_res, text | {"stage": "base"})
    write_png(picture.file, picture.image, text)
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


def _entry(request: Request, picture: Picture) -> dict[str, Any]:
    """A picture in the JSON report."""
    file = picture.file
    return {
        "prompt": picture.prompt,
        "seed": picture.seed,
        "file": None if file is None else str(file),
        "low_res_file": str(low_res_file(file)) if file is not None and request.low_res else None,
        "skipped": picture.skipped,
    }
