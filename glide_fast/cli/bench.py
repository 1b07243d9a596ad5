"""``glide-fast bench``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from glide_fast.cli import options as opt
from glide_fast.errors import invalid


def bench(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="PART...",
            help="ops, step, loop, pipeline, cold-start, memory, waiting, quality.",
        ),
    ],
    name: opt.MeasuredModel = ["small"],  # noqa: B006  # typer reads the default and never changes it
    device: opt.Device = None,
    dtype: opt.FastDtype = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of the network's call (ops, step) or pictures (loop, pipeline).",
            show_default="what one picture takes",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of loops and pipelines.", show_default="each part's own")
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            help="default, all, none, or a comma list of eager, eager-cached-text, eager-half, official, compile, "
            "compile-strong, inductor-frozen, openvino. Compiled ones take minutes to start."
        ),
    ] = "default",
    ablate: Annotated[
        bool, typer.Option("--ablate", help="step: also without each thing that the runtime does.")
    ] = False,
    samples: Annotated[int, typer.Option(min=2, help="Of each contestant, in turns.")] = 7,
    seconds: Annotated[
        float, typer.Option(min=0, help="No new round of a comparison after this time.")
    ] = 120.0,
    threads: opt.Threads = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw them (.png, .svg or .pdf; needs matplotlib).")
    ] = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """Measure speed, memory and errors on this device.

    Contestants take turns; the median and the quartiles are printed. A speed-up is printed only for results whose error against
    fp32 is at most a quarter above that of torch's own eager code in the same precision.
    """
    from glide_fast.cli.paths import require_free_files, require_writable

    for argument, file in (("csv", csv), ("plot", plot)):
        if file is not None:
            require_free_files(argument, [file], overwrite)
            require_writable(argument, file.parent, create=argument == "csv")
    import torch

    from glide_fast.bench.baselines import chosen
    from glide_fast.bench.measurement import KEY, Measurement, table
    from glide_fast.bench.parts import PARTS, measure
    from glide_fast.bench.plot import check, draw
    from glide_fast.bench.provenance import provenance
    from glide_fast.bench.record import Row, Table
    from glide_fast.bench.settings import Settings

    for part in parts:
        if part not in PARTS:
            raise invalid("parts", part, ", ".join(PARTS))
    asked = tuple(name.strip() for name in baselines.split(","))
    chosen(asked)
    if plot is not None:
        check(plot)
    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(
        models=tuple(name),
        device=device,
        dtype=dtype,
        batch=batch,
        steps=steps,
        baselines=asked,
        ablate=ablate,
        samples=samples,
        seconds=seconds,
    )
    settings.target_dtype  # noqa: B018  # refuses a device or type that does not do, before any work
    facts = provenance(settings.target_device.type)
    # Each comparison is written when it is there: an interruption after an hour does not lose the hour.
    kept = None if csv is None else Table(csv, KEY, facts, again=True)
    found: list[Row] = []

    def report(comparison: list[Measurement]) -> None:
        typer.echo(table(comparison) + "\n")
        rows = [measurement.row() for measurement in comparison]
        found.extend(facts | row for row in rows)
        if kept is not None:
            kept.add(*rows)

    try:
        for part in parts:
            for _, comparison in groupby(measure(part, settings), lambda m: (m.part, m.model, m.work)):
                report(list(comparison))
    finally:
        if kept is not None and kept.rows:
            typer.echo(str(csv))
        if plot is not None and draw(found, plot):
            typer.echo(str(plot))
