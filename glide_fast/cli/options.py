"""Options that several commands take.

A command's parameter is called as the argument it is handed on as: an error about the argument then names the option
(:mod:`glide_fast.cli.command`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from glide_fast.errors import invalid
from glide_fast.limits import MOST_IMAGES
from glide_fast.pipelines.options import DECLARED, SamplingOptions

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
NumImages = Annotated[int, typer.Option(min=1, max=MOST_IMAGES, help="Pictures of each prompt.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Of the first picture; the others count up.", show_default="drawn, and printed"),
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


Sampling = dict[str, Any]
"""The options of a pipeline's call that are set on the command line; the model's settings decide the others."""


def takes_sampling_options(*stages: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that replaces a command's parameter ``sampling`` by the options that decide these stages' pictures.

    They are those of :class:`glide_fast.pipelines.options.SamplingOptions` that have a flag. The command is called with
    ``sampling`` as :data:`Sampling`.
    """
    added = [
        each for each in fields(SamplingOptions) if DECLARED[each.name].flag and _decides(each.name, stages)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            values = {each.name: arguments.pop(each.name) for each in added}
            typed = without_none(values)
            if "guidance_interval" in typed:
                typed["guidance_interval"] = interval(typed["guidance_interval"])
            command(sampling=typed, **arguments)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
            parameters += map(_parameter, added) if parameter.name == "sampling" else own
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _decides(name: str, stages: Sequence[str]) -> bool:
    return not set(stages).isdisjoint(DECLARED[name].stages)


def _parameter(field: Field[Any]) -> inspect.Parameter:
    """A command's parameter for an option of a call; its default None means that the option is not set."""
    declared = DECLARED[field.name]
    described = typer.Option(
        declared.flag,
        help=declared.help,
        metavar=declared.metavar,
        min=1 if field.type == "int" else None,  # all of them count something
        show_default=False if declared.setting is None else "the model's own",
    )
    types: dict[Any, Any] = {"int": int, "float": float, "float | None": float}
    annotation = Annotated[types.get(field.type, str) | None, described]  # type: ignore[valid-type]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def interval(text: str) -> tuple[float, float]:
    """``LOW,HIGH`` as two numbers; InvalidInputError for anything else (their order is the pipeline's to check)."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise invalid(
            "guidance_interval", text, "two numbers with a comma between, such as 0.1,0.8"
        ) from None
    return low, high


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
