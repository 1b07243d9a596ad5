"""``glide-fast sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from glide_fast.cli import options as opt
from glide_fast.cli.files import is_directory, lay_out, read_prompts
from glide_fast.cli.request import Request
from glide_fast.cli.run import run
from glide_fast.errors import InvalidInputError, invalid
from glide_fast.limits import require_images
from glide_fast.pipelines.options import BASE, UPSAMPLER


@opt.takes_sampling_options(BASE, UPSAMPLER)
def sample(
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help='What to draw, such as "a yellow star".')
    ] = None,
    output: opt.Output = Path("out.png"),
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt on each line, instead of PROMPT. The output is a directory; run again after an "
            "interruption, it makes what is missing."
        ),
    ] = None,
    name: opt.Model = "small",
    *,
    sampling: opt.Sampling,
    num_images: opt.NumImages = 1,
    seed: opt.Seed = None,
    batch_size: opt.BatchSize = 8,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    accelerate: opt.Accelerate = True,
    grid: opt.Grid = None,
    low_res: opt.LowRes = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Draw pictures of prompts."""
    if bool(prompt) == (prompts is not None):
        received = "both PROMPT and --prompts" if prompt else "neither PROMPT nor --prompts"
        raise InvalidInputError(f"prompt: got {received}; accepted: one or more prompts, or --prompts FILE")
    if prompts is not None and not is_directory(output):
        raise invalid("output", str(output), "a directory, with --prompts")
    texts = list(prompt or []) if prompts is None else read_prompts(prompts)
    require_images(
        "prompt" if prompts is None else "prompts", len(texts), "prompts", "num_images", num_images
    )

    def call(pipeline: Any, batch: list[str], **kwargs: Any) -> Any:
        return pipeline(batch, **kwargs)

    request = Request(
        model=name,
        device=device,
        dtype=dtype,
        accelerate=accelerate,
        prompts=[text for text in texts for _ in range(num_images)],
        each=num_images,
        seed=seed,
        layout=lay_out(output, len(texts), num_images, grid),
        low_res=low_res,
        overwrite=overwrite,
        batch_size=batch_size,
        options=sampling,
        call=call,
        resume=prompts is not None,
    )
    run(request, as_json=as_json, quiet=quiet)
