"""``glide-fast train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glide_fast.cli.files import read_json_object
from glide_fast.cli.options import Device, given
from glide_fast.errors import InvalidInputError, invalid

if TYPE_CHECKING:
    from glide_fast.train import TrainConfig

DEFAULT_PRESET = "small"


def train(
    out: Annotated[
        Path,
        typer.Option(help="Directory of the run; one that holds a run goes on from its last checkpoint."),
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
    model_options: Annotated[
        Path | None, typer.Option(help="JSON file with the model's options, instead of --preset.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all.", show_default="10000")] = None,
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
    compile_model: Annotated[
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
    if preset is not None and model_options is not None:
        raise InvalidInputError("preset: got --preset and --model-options; accepted: one of them")
    options = None if model_options is None else read_json_object(model_options, "model_options")
    settings = given(
        data=None if data is None else str(data),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        decay_fraction=decay_fraction,
        ema_decay=ema_decay,
        caption_dropout=caption_dropout,
        unknown_dropout=unknown_dropout,
        inpaint_fraction=inpaint_fraction,
        weighting=weighting,
        max_weight=max_weight,
        crop=crop,
        precision=precision,
        compile=compile_model,
        seed=seed,
        log_every=log_every,
        save_every=save_every,
        sample_every=sample_every,
    )
    from glide_fast.train import Trainer

    trainer = Trainer(_config(out, settings, preset, options), out, device)
    if not quiet and trainer.step:
        typer.echo(f"goes on after step {trainer.step} of {trainer.config.steps}", err=True)
    typer.echo(str(trainer.run(progress=not quiet)))


def _config(
    out: Path, settings: dict[str, Any], preset: str | None, options: dict[str, Any] | None
) -> TrainConfig:
    """The run's settings: those of the run that ``out`` holds, with what was given on top; or those of a new one."""
    from glide_fast.train import TrainConfig, presets
    from glide_fast.train.state import RunDirectory

    begun = RunDirectory(out).config()
    if options is not None:
        settings = settings | {"model": options}
    elif preset is not None or begun is None:
        settings = settings | {"model": presets.model(preset or DEFAULT_PRESET)}
    if begun is not None:
        return TrainConfig.from_json(begun.to_json() | settings)
    if "data" not in settings:
        raise invalid("data", None, "the directory of a data set, to start a run")
    return TrainConfig.from_json(settings)
