"""The command line, ``glide-fast``. Commands import torch when they run, so that help is instant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glide_fast.openmp import let_threads_sleep

if TYPE_CHECKING:
    from glide_fast.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``glide-fast``."""
    from glide_fast.cli import signals

    signals.install()
    let_threads_sleep()
    from glide_fast.cli.commands import app

    app(prog_name="glide-fast")


def __getattr__(name: str) -> Any:
    # Not imported above: a Ctrl-C while typer loads is already ours to answer.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from glide_fast.cli.commands import app

    return app
