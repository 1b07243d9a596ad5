"""``glide-fast tune``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from glide_fast.cli import options as opt

if TYPE_CHECKING:
    from glide_fast.tune.measure import Verdict


def tune(
    minutes: Annotated[
        float, typer.Option(min=0, help="Begin nothing that would not end in this time.")
    ] = 5.0,
    op: Annotated[
        list[str],
        typer.Option(metavar="OP", help="Only this op's calls. May be given again.", show_default="all"),
    ] = [],  # noqa: B006  # typer reads the default and never changes it
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the rows go, beside those that are there.",
            show_default="a file of this device in the cache, which is read by itself from then on",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Measure the calls of this model's step: a preset, small, or a directory.",
            show_default="GLIDE's calls at the usual batch sizes",
        ),
    ] = None,
    batch: opt.Rows = None,
    device: opt.Device = None,
    dtype: opt.FastDtype = None,
    threads: opt.Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure which backend and which plan is fastest for each call on this device, and write it down.

    The calls that may save most come first, and each row is written when it is there: a run that is stopped keeps what it has,
    and the next one goes on. Nothing is measured that the file has for the code as it is now. Let the machine do nothing else
    meanwhile.
    """
    from glide_fast.cli.paths import require_writable
    from glide_fast.errors import invalid

    if not math.isfinite(minutes):
        raise invalid("minutes", minutes, "a number of minutes")
    if batch is not None and name is None:
        raise invalid("batch", batch, "a batch with --model; GLIDE's own calls have theirs")
    if out is not None:
        require_writable("out", out.parent, create=True)
    import torch

    from glide_fast.bench.settings import Settings
    from glide_fast.plans.device import Device
    from glide_fast.plans.table import own_file
    from glide_fast.tune import tasks as found
    from glide_fast.tune.run import Book, run

    if threads is not None:
        torch.set_num_threads(threads)
    settings = Settings(device=device, dtype=dtype)
    place, kind = settings.target_device, settings.target_dtype
    names = found.chosen_ops(op)
    here = Device.of(place)
    book = Book(own_file(here) if out is None else out, here)
    tasks = (
        found.of_cases(names, place.type, kind)
        if name is None
        else found.of_model(name, batch, names, place, kind)
    )
    tasks = found.in_order(tasks, place.type)
    typer.echo(f"{here}: {len(tasks)} calls")
    with _Bar(len(tasks), not quiet) as bar:
        try:
            done = run(tasks, book, place, minutes, bar)
        finally:
            bar.close()
            if book.path.exists():
                typer.echo(str(book.path))
    for title, reason in done.failed.items():
        typer.echo(f"no row for {title}: {reason}")
    words = f"{done.measured} rows measured, {done.kept} kept; {done.idle} calls with nothing to choose"
    typer.echo(f"{words}; {done.left} calls to go on with")
    if done.rules_us:
        typer.echo(
            f"One of each measured call: {done.rules_us / 1e3:.3g} ms by the rules, {done.rows_us / 1e3:.3g} ms by the rows"
        )


class _Bar:
    """Shows tasks done, the time and the present task on standard error."""

    def __init__(self, total: int, enabled: bool) -> None:
        self._bar = tqdm(total=total, unit=" calls", disable=not enabled)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, title: str) -> None:
        """See :class:`glide_fast.tune.run.Progress`."""
        self._bar.set_postfix_str(title)

    def end(self, verdict: Verdict | None) -> None:
        """See :class:`glide_fast.tune.run.Progress`."""
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.set_postfix_str("", refresh=False)
        self._bar.close()
