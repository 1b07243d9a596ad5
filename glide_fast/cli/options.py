"""Options that several commands take.

A command's parameter is called as the argument it is handed on as: an error about the argument then names the option
(:mod:`glide_fast.cli.command`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from glide_fast.errors import invalid
from glide_fast.limits import MOST_IMAGES

Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="A .png file, or a directory. Several pictures in one file are a grid, or numbered files with --no-grid.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="small (ships with the package), official (downloads), or a directory of a pipeline, a model, or a training run.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="Steps of the base model.", show_default="the model's own"),
]
UpsampleSteps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the upsampler.", show_default="the model's own")
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(help="How strongly to follow the prompt; 1 is no guidance.", show_default="the model's own"),
]
NegativePrompt = Annotated[str | None, typer.Option(help="What to steer away from.")]
NumImages = Annotated[int, typer.Option(min=1, max=MOST_IMAGES, help="Pictures of each prompt.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Of the first picture; the others count up.", show_default="drawn, and printed"),
]
Sampler = Annotated[
    str | None,
    typer.Option(help="ddpm, ddim, plms, dpm++2m or euler-a.", show_default="the model's own"),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Pictures made at once; what they show does not depend on it.")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...", show_default="a GPU if there is one")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="fp32, bf16 or fp16.",
        show_default="fp16 on a GPU; when accelerated bf16 on a CPU that multiplies it; else fp32",
    ),
]
Accelerate = Annotated[
    bool,
    typer.Option(
        "--accelerate/--no-accelerate",
        help="Fused operations and captured loops, or the plain models.",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Guide only in this part of the process, from 0 (clean) to 1 (noise); steps outside it cost half.",
        show_default="the model's own",
    ),
]
CacheInterval = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Compute every n-th step in full and reuse its deep features in between; needs --accelerate.",
        show_default="the model's own",
    ),
]
Grid = Annotated[
    bool | None,
    typer.Option(
        "--grid/--no-grid", help="All pictures in one.", show_default="on for a file, off for a directory"
    ),
]
LowRes = Annotated[
    bool, typer.Option("--low-res", help="Keep the base model's pictures too, as NAME.low-res.png.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print files, seeds, settings, steps taken and timings as JSON.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but errors and what --json asks for.")
]
MeasuredModel = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="base, upsample, ... (a preset at full size, with random weights), small, or a directory of a pipeline or "
        "model. May be given again.",
    ),
]
FastDtype = Annotated[
    str | None,
    typer.Option("--dtype", help="fp32, bf16 or fp16.", show_default="what the device is fastest in"),
]
Rows = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Rows of the network's call.", show_default="what one picture takes"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Of torch on a CPU.", show_default="torch's own choice")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def interval(text: str | None) -> tuple[float, float] | None:
    """``LOW,HIGH`` as two numbers; InvalidInputError for anything else (their order is the pipeline's to check)."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise invalid(
            "guidance_interval", text, "two numbers with a comma between, such as 0.1,0.8"
        ) from None
    return low, high


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others are left to the model's settings."""
    return {name: value for name, value in options.items() if value is not None}
