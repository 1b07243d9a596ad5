"""``glide-fast train``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glide_fast.cli.files import read_json_object
from glide_fast.cli.options import Device, without_none
from glide_fast.errors import InvalidInputError, invalid

if TYPE_CHECKING:
    from glide_fast.train import TrainConfig

DEFAULT_PRESET = "small"


def train(
    ctx: typer.Context,
    directory: Annotated[
        Path,
        typer.Option(
            "--out", help="Directory of the run; one that holds a run goes on from its last checkpoint."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Data set, as python -m glide_fast.data.build makes it.", show_default=False),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Model: small, small-upsample, or one of GLIDE's, such as base.", show_default=DEFAULT_PRESET
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model-options", help="JSON file with the model's options, instead of --preset."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all.", show_default="10000")] = None,
    extend_to: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a run that was begun: the steps in all that it shall have now. The learning rate is from here on that of "
            "a run of so many steps.",
            show_default="--steps as it was begun",
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.", show_default="32")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's, after the warm-up.", show_default="5e-4")
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="Over which the rate rises.", show_default="200")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's.", show_default="0.01")] = None,
    decay_fraction: Annotated[
        float | None,
        typer.Option(help="Share of the run in which the rate falls to zero.", show_default="0.3"),
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Of the averaged weights.", show_default="0.999")
    ] = None,
    caption_dropout: Annotated[
        float | None, typer.Option(help="Share of empty captions.", show_default="0.2")
    ] = None,
    unknown_dropout: Annotated[
        float | None, typer.Option(help="Chance that a token becomes the unknown word.", show_default="0.02")
    ] = None,
    inpaint_fraction: Annotated[
        float | None, typer.Option(help="Share of pictures shown with a mask.", show_default="0.25")
    ] = None,
    weighting: Annotated[
        str | None, typer.Option(help="Of the loss: v, or eps as in the paper.", show_default="v")
    ] = None,
    max_weight: Annotated[
        float | None, typer.Option(help="Limit of the v weighting.", show_default="20")
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(help="Side of random crops for an upsampler; 0 is whole pictures.", show_default="0"),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32.", show_default="bf16")] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.", show_default="no")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, batches, noise and masks.", show_default="0")
    ] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps.", show_default="20")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps.", show_default="500")] = None,
    sample_every: Annotated[
        int | None, typer.Option(help="Steps; 0 samples never.", show_default="500")
    ] = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a model.

    It may be stopped at any moment; the same command goes on from the last checkpoint.
    """
    if preset is not None and model is not None:
        raise InvalidInputError("preset: got --preset and --model-options; accepted: one of them")
    options = None if model is None else read_json_object(model, "model")
    if extend_to is not None and steps is not None:
        raise InvalidInputError("extend_to: got --extend-to and --steps; accepted: one of them")
    from glide_fast.train import TrainConfig, Trainer

    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"model", "data"}
    typed = {name: value for name, value in ctx.params.items() if name in names}
    settings = without_none(typed | {"data": None if data is None else str(data)})
    if extend_to is not None:
        settings["steps"] = extend_to
    config = _config(directory, settings, preset, options, extends=extend_to is not None)
    trainer = Trainer(config, directory, device, extend=extend_to is not None)
    if not quiet and trainer.step:
        typer.echo(f"goes on after step {trainer.step} of {trainer.config.steps}", err=True)
    typer.echo(str(trainer.run(progress=not quiet)))


def _config(
    directory: Path,
    settings: dict[str, Any],
    preset: str | None,
    options: dict[str, Any] | None,
    extends: bool,
) -> TrainConfig:
    """The settings of the run in ``directory``, updated by the options of the command line; or those of a new run."""
    from glide_fast.train import TrainConfig, presets
    from glide_fast.train.state import RunDirectory

    begun = RunDirectory(directory).config()
    if extends and begun is None:
        raise invalid("extend_to", settings["steps"], "a run that was begun in --out; --steps for a new one")
    if options is not None:
        settings = settings | {"model": options}
    elif preset is not None or begun is None:
        settings = settings | {"model": presets.model(preset or DEFAULT_PRESET)}
    if begun is not None:
        return TrainConfig.from_json(begun.to_json() | settings)
    if "data" not in settings:
        raise invalid("data", None, "the directory of a data set, to start a run")
    return TrainConfig.from_json(settings)
