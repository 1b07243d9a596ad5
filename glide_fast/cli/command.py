"""What all commands share: errors as one line with an exit code, warnings as one line."""

from __future__ import annotations

import errno
import traceback
import warnings
from typing import Any

import typer
from typer.core import TyperCommand

from glide_fast.cli import signals
from glide_fast.errors import GlideFastError


class Command(TyperCommand):
    """A command whose failures are for people; ``glide-fast --debug COMMAND`` shows where in the code they happened."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; every way out but success ends in ``typer.Exit`` with the code of its kind."""
        debug = ctx.find_root().params.get("debug", False)
        with warnings.catch_warnings():
            _print_warnings_as_lines()
            try:
                with signals.work():
                    return super().invoke(ctx)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt as interrupt:
                failure: BaseException = interrupt
            except BrokenPipeError:
                raise  # whoever read the output has gone; nobody is left to tell
            except Exception as error:
                failure = error
        if debug:
            traceback.print_exception(failure)
        code, message = describe(failure)
        typer.echo(message, err=True)
        raise typer.Exit(code)


def describe(error: BaseException) -> tuple[int, str]:
    """Exit code and line for an error."""
    if isinstance(error, KeyboardInterrupt):
        return signals.ending()
    if isinstance(error, GlideFastError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        place = f"{error.filename}: " if error.filename else ""
        return GlideFastError.exit_code, f"error: {place}{reason}"
    kind, text = type(error).__name__, str(error).strip()
    first = text.splitlines()[0] if text else "no message"
    return GlideFastError.exit_code, f"error: {kind}: {first} (glide-fast --debug shows where)"


def _print_warnings_as_lines() -> None:
    """Our own warnings say all there is to know; other packages' keep their place in the code."""
    from_python = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **kwargs: Any) -> None:
        if category.__module__.partition(".")[0] == "glide_fast":
            typer.echo(f"warning: {message}", err=True)
        else:
            from_python(message, category, *place, **kwargs)

    warnings.showwarning = show
