"""``glide-fast explain``."""

from __future__ import annotations

import typer

from glide_fast.cli import options as opt


def explain(
    name: opt.MeasuredModel = ["small"],  # noqa: B006  # typer reads the default and never changes it
    device: opt.Device = None,
    dtype: opt.FastDtype = None,
    batch: opt.Rows = None,
) -> None:
    """Say which backend runs each operation of a step, and why not another.

    Runs one step on arbitrary values, on the device of ``--device``.
    """
    from glide_fast.bench.contestants import accelerated
    from glide_fast.bench.settings import Settings
    from glide_fast.bench.subject import subjects
    from glide_fast.bench.work import Work

    settings = Settings(models=tuple(name), device=device, dtype=dtype, batch=batch)
    for subject in subjects(settings.models):
        work = Work(subject, batch, settings.target_device)
        explained = accelerated(subject, work, settings.target_dtype, take=True).explain(work.batch)
        typer.echo(f"{subject.name}: {explained}\n")
