"""``glide-fast bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glide_fast.cli.files import read_json_object, require_free
from glide_fast.cli.options import Overwrite, Quiet


def bundle(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Model directory of the base model.")],
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Pipeline directory to write.")],
    upsampler: Annotated[Path | None, typer.Option(help="Model directory of the upsampler.")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="JSON file with the pipeline's defaults, such as guidance_scale.")
    ] = None,
    storage: Annotated[str, typer.Option(help="Weights on disk: fp16, bf16 or fp32.")] = "fp16",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Put a base model and its upsampler into one pipeline directory.

    Model directories are what train (RUN/model) and convert write.
    """
    require_free(out_dir, overwrite)
    defaults = None if settings is None else read_json_object(settings, "settings")
    from glide_fast.weights.bundle import bundle as write

    write(base, out_dir, upsampler, defaults, storage)
    if not quiet:
        typer.echo(str(out_dir))
