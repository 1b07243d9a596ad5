"""What all commands share: errors as one line with an exit code, warnings as one line."""

from __future__ import annotations

import errno
import functools
import re
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from glide_fast.cli import signals
from glide_fast.errors import GlideFastError, InvalidInputError, OutOfMemoryError
from glide_fast.file_names import require_name


class Command(TyperCommand):
    """A command that prints an error as one line; ``glide-fast --debug COMMAND`` also prints the traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error is printed and ends in ``typer.Exit`` with the exit code of its class."""
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
                raise  # nobody reads the output any more
            except Exception as error:
                failure = error
        if debug:
            traceback.print_exception(failure)
        code, message = describe(failure, option_names(self))
        typer.echo(message, err=True)
        raise typer.Exit(code)


def with_paths_checked(function: Callable[..., None]) -> Callable[..., None]:
    """A command's function that first raises InvalidInputError for paths that no file can have."""

    @functools.wraps(function)
    def checked(**arguments: Any) -> None:
        for name, value in arguments.items():
            if isinstance(value, Path):
                require_name(name, value)
        function(**arguments)

    return checked


def option_names(command: TyperCommand) -> dict[str, str]:
    """A command's options and arguments as people type them, by the name of the parameter."""
    names = {}
    for parameter in command.params:
        if parameter.name is not None:
            typed = max(parameter.opts, key=len)
            is_option = typed.startswith("-")
            names[parameter.name] = typed if is_option else (parameter.metavar or typed).removesuffix("...")
    return names


def describe(error: BaseException, options: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and message for an error.

    Args:
        options: what people type for each argument (:func:`option_names`); the message uses it.
    """
    if isinstance(error, KeyboardInterrupt):
        return signals.ending()
    if isinstance(error, InvalidInputError):
        return error.exit_code, f"error: {_with_options(error, options)}"
    if isinstance(error, GlideFastError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        where = f"{error.filename}: " if error.filename else ""
        return GlideFastError.exit_code, f"error: {where}{reason}"
    name, text = type(error).__name__, str(error).strip()
    first = text.splitlines()[0] if text else "no message"
    if _ran_out_of_memory(error):
        return OutOfMemoryError.exit_code, f"error: out of memory; accepted: less at once ({first})"
    return GlideFastError.exit_code, f"error: {name}: {first} (glide-fast --debug shows where)"


def _ran_out_of_memory(error: BaseException) -> bool:
    if not isinstance(error, (MemoryError, RuntimeError)):
        return False
    from glide_fast.pipelines.parts import ran_out_of_memory  # brings torch, which most errors do without

    return ran_out_of_memory(error)


def _with_options(error: InvalidInputError, options: Mapping[str, str]) -> str:
    """The error's message with options in place of the argument at its start and of those in ``listed``."""
    text = re.sub(r"\A(\w+)(?=(\[[^]]*\])?: )", lambda found: options.get(found[1], found[1]), str(error))
    for name in error.listed:
        text = re.sub(rf"(?<=[ (]){name}(?=(\[[^]]*\])?: )", options.get(name, name), text)
    return text


def _print_warnings_as_lines() -> None:
    """Print warnings of glide_fast as one line each; those of other packages are printed with file and line, as usual."""
    from_python = warnings.showwarning

    def show(message: Any, category: type[Warning], *where: Any, **kwargs: Any) -> None:
        if category.__module__.partition(".")[0] == "glide_fast":
            typer.echo(f"warning: {message}", err=True)
        else:
            from_python(message, category, *where, **kwargs)

    warnings.showwarning = show
