"""The list of all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from glide_fast.cli.bench import bench
from glide_fast.cli.bundle import bundle
from glide_fast.cli.command import Command, with_paths_checked
from glide_fast.cli.convert import convert
from glide_fast.cli.environment import environment
from glide_fast.cli.explain import explain
from glide_fast.cli.inpaint import inpaint
from glide_fast.cli.profile import profile
from glide_fast.cli.sample import sample
from glide_fast.cli.train import train
from glide_fast.cli.tune import tune
from glide_fast.cli.upsample import upsample
from glide_fast.cli.words import words

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes leave the help of an option a third of the line
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pictures from text with GLIDE.\n\n"
    "Exit codes: 0 done, 2 bad input, 3 a checkpoint does not do or cannot be written, 4 a download failed, "
    "5 a backend cannot run, 6 one image does not fit into memory, "
    "130 interrupted (Ctrl-C), 143 terminated (SIGTERM), 1 anything else.",
)
for name, function in (
    ("sample", sample),
    ("inpaint", inpaint),
    ("upsample", upsample),
    ("train", train),
    ("convert", convert),
    ("bundle", bundle),
    ("bench", bench),
    ("profile", profile),
    ("explain", explain),
    ("tune", tune),
    ("words", words),
    ("env", environment),
):
    app.command(name, cls=Command)(with_paths_checked(function))


def _print_version(wanted: bool) -> None:
    if wanted:
        from glide_fast import __version__

        typer.echo(f"glide-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command."""
