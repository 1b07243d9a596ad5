"""``glide-fast convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from glide_fast.cli.files import read_json_object, require_free
from glide_fast.cli.options import Json, Overwrite, Quiet
from glide_fast.cli.paths import require_file


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .pt or .safetensors file.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Directory to write.")],
    options: Annotated[
        Path | None,
        typer.Option(help="JSON file with options that shapes do not show, such as num_head_channels."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Where the weights are in a file that holds several things, such as ema."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn an official checkpoint into a directory.

    It holds config.json and model.safetensors, as training exports them.
    """
    require_free(out_dir, overwrite)
    require_file("checkpoint", checkpoint, "a .pt or .safetensors file")
    extra = None if options is None else read_json_object(options, "options")
    from glide_fast.checkpoints import convert_official

    kind, merged = convert_official(checkpoint, out_dir, extra, key=key)
    if as_json:
        typer.echo(json.dumps({"directory": str(out_dir), "kind": kind, "options": merged}, indent=2))
    elif not quiet:
        typer.echo(str(out_dir))
