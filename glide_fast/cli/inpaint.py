"""``glide-fast inpaint``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from glide_fast.cli import options as opt
from glide_fast.cli.files import lay_out, read_mask, read_picture
from glide_fast.cli.request import Request
from glide_fast.cli.run import run
from glide_fast.errors import invalid
from glide_fast.pipelines.options import BASE, UPSAMPLER


class White(str, enum.Enum):
    """What a mask's white pixels mean."""

    keep = "keep"
    repaint = "repaint"


@opt.takes_sampling_options(BASE, UPSAMPLER)
def inpaint(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A square picture.")],
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="A black and white picture of the same size.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the picture is to show.")],
    white: Annotated[
        White,
        typer.Option(help="What the mask's white pixels mean; tools disagree, so say it."),
    ],
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
    low_res: opt.LowRes = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Repaint part of a picture; the rest stays as it is."""
    picture, marks = read_picture(image, "image"), read_mask(mask, "mask")
    if picture.width != picture.height:
        raise invalid(
            "image", f"{picture.width}x{picture.height} pixels", "a square picture; crop or pad it first"
        )
    if marks.size != picture.size:
        raise invalid(
            "mask",
            f"{marks.width}x{marks.height} pixels",
            f"the size of IMAGE, {picture.width}x{picture.height}",
        )
    masks = {"keep_mask" if white is White.keep else "repaint_mask": marks}

    def call(pipeline: Any, batch: list[str], **kwargs: Any) -> Any:
        return pipeline.inpaint(batch, picture, **masks, **kwargs)

    request = Request(
        model=name,
        device=device,
        dtype=dtype,
        accelerate=accelerate,
        prompts=[prompt] * num_images,
        each=num_images,
        seed=seed,
        layout=lay_out(output, 1, num_images, grid),
        low_res=low_res,
        overwrite=overwrite,
        batch_size=batch_size,
        options=sampling,
        call=call,
        about={"image": image.name, "mask": mask.name, "white": white.value},
    )
    run(request, as_json=as_json, quiet=quiet)
