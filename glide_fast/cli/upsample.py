"""``glide-fast upsample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from glide_fast.cli import options as opt
from glide_fast.cli.files import lay_out, read_picture
from glide_fast.cli.request import Request
from glide_fast.cli.run import run
from glide_fast.pipelines.options import UPSAMPLER


@opt.takes_sampling_options(UPSAMPLER)
def upsample(
    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", help="A picture of the size the upsampler reads, such as 64x64."),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture shows.")] = "",
    output: opt.Output = Path("out.png"),
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
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Enlarge a picture with the upsampler alone."""
    picture = read_picture(image, "image")

    def call(pipeline: Any, batch: list[str], **kwargs: Any) -> Any:
        return pipeline.upsample(picture, batch, **kwargs)

    request = Request(
        model=name,
        device=device,
        dtype=dtype,
        accelerate=accelerate,
        prompts=[prompt] * num_images,
        each=num_images,
        seed=seed,
        layout=lay_out(output, 1, num_images, grid),
        low_res=False,
        overwrite=overwrite,
        batch_size=batch_size,
        options=sampling,
        call=call,
        stages=(UPSAMPLER,),
        about={"image": image.name},
    )
    run(request, as_json=as_json, quiet=quiet)
