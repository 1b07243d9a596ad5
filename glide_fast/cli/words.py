"""``glide-fast words``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from glide_fast.cli import options as opt


def words(
    name: opt.Model = "small",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a list as JSON; null where any word will do.")
    ] = False,
) -> None:
    """List the words that a model was trained on, one a line."""
    from glide_fast.pipelines import GlidePipeline

    known = GlidePipeline.from_pretrained(name, device="cpu", accelerate=False).known_words
    if as_json:
        typer.echo(json.dumps(known))
    elif known is None:
        typer.echo(f"{name} has no list: it was trained on any words.", err=True)
    else:
        typer.echo("\n".join(known))
