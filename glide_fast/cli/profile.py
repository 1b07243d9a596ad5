"""``glide-fast profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glide_fast.cli import options as opt


def profile(
    name: opt.MeasuredModel = ["small"],  # noqa: B006  # typer reads the default and never changes it
    device: opt.Device = None,
    dtype: opt.FastDtype = None,
    batch: opt.Rows = None,
    samples: Annotated[int, typer.Option(min=2, help="Steps that are timed.")] = 7,
    rows: Annotated[int, typer.Option(min=1, help="Of the table.")] = 25,
    threads: opt.Threads = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a trace of one step, for ui.perfetto.dev or chrome://tracing."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all rows here.")] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """Take one step of a model apart: time, share, bytes, FLOPs and percent of the measured ceiling, for alike calls together.

    The ceilings are a copy and the best matrix product, measured in the same run; the last line says what the step would take
    if every call ran at its ceiling.
    """
    from glide_fast.cli.paths import require_free_files, require_writable

    for argument, file in (("trace", trace), ("csv", csv)):
        if file is not None:
            require_free_files(argument, [file], overwrite)
            require_writable(argument, file.parent, create=argument == "csv")
    import torch

    from glide_fast.bench import record
    from glide_fast.bench.profiled import profile as take_apart
    from glide_fast.bench.provenance import provenance
    from glide_fast.bench.settings import Settings
    from glide_fast.bench.subject import subjects

    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(
        models=tuple(name), device=device, dtype=dtype, batch=batch, samples=samples, seconds=60
    )
    settings.target_dtype  # noqa: B018  # refuses a device or type that does not do, before any work
    facts = provenance(settings.target_device.type)
    found: list[record.Row] = []
    chosen = subjects(settings.models)
    for number, subject in enumerate(chosen):
        # One trace a model: the second has its number in its name.
        file = trace if trace is None or number == 0 else trace.with_stem(f"{trace.stem}-{number + 1}")
        result = take_apart(subject, settings, file)
        typer.echo(result.table(rows) + "\n")
        found += [facts | row for row in result.rows()]
        if file is not None:
            typer.echo(str(file))
    if csv is not None:
        record.write(csv, found)
        typer.echo(str(csv))
