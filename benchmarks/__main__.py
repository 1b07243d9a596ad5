"""``python -m benchmarks``: measure ops and write the results; see README.md beside this file."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from benchmarks import contests, suites
from benchmarks.folders import results_folder
from glide_fast.bench import ceilings
from glide_fast.bench.measurement import KEY
from glide_fast.bench.provenance import provenance
from glide_fast.bench.record import Row, Table
from glide_fast.bench.timing import FULL, QUICK, Effort

SUITES = suites.found()
UNFINISHED = 3
"""Exit status when the time was up before the last contest; the same command then goes on with the rest."""
TYPES = {"cuda": (torch.float16, torch.bfloat16, torch.float32), "cpu": (torch.bfloat16, torch.float32)}
"""Types in which ``--check`` compares each backend with fp64."""


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if any result was wrong, :data:`UNFINISHED` if contests are left, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":")[0])
    parser.add_argument("--op", choices=sorted(SUITES), action="append", help="only these; all otherwise")
    parser.add_argument(
        "--shapes", default="", metavar="REGEX", help="only calls whose model and work have it: 'base .* 2 x'"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--threads", type=int, help="number of torch's threads on the CPU; torch chooses otherwise"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes minutes")
    parser.add_argument(
        "--again", action="store_true", help="measure also calls that the results have already for this code"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="begin no contest after this time; run again to go on",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one size of each model, few samples, nothing recorded"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="time nothing: compare every backend with fp64 in each type, at small sizes; nothing recorded",
    )
    parser.add_argument("--first", type=int, metavar="N", help="only the first N calls of each op")
    parser.add_argument("--out", type=Path, help="where to write; benchmarks/results/<device> otherwise")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = provenance(options.device)
    recorded = options.out is not None or not (options.quick or options.check)
    folder = (options.out or results_folder(options.device)) if recorded else None
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value))

    if not options.check:
        limits(options.device, options.quick, options.again, facts, folder)
    red: list[str] = []
    unfinished = False
    for op in options.op or SUITES:
        done = measure(op, SUITES[op], options, effort(options), table(folder, facts), until)
        red += done.red
        idle = options.check and not done.ran and not done.unfinished
        red += [f"no backend of {op} ran"] if idle and contests.cases_on(op, options.device) else []
        unfinished = unfinished or done.unfinished
        more = ", more to go" * done.unfinished
        print(f"{op}: {done.measured} calls measured, {done.kept} kept{more}", flush=True)
    print("\n".join(f"WRONG: {line}" for line in red))
    return 1 if red else UNFINISHED if unfinished else 0


def effort(options: argparse.Namespace) -> Effort | None:
    """How often to repeat; None to time nothing."""
    return None if options.check else QUICK if options.quick else FULL


def measure(
    op: str,
    suite: ModuleType,
    options: argparse.Namespace,
    how: Effort | None,
    rows: Table | None,
    until: float,
) -> contests.Done:
    """One op's suite."""
    if options.check:
        suite, sizes = contests.reference_alone(op), checked(op, options.device)
    else:
        sizes = contests.sizes(op, options.device, quick=options.quick)
    return contests.run_suite(
        suite,
        itertools.islice(sizes, options.first),
        how,
        rows,
        compiled=not (options.no_compile or options.quick or options.check),
        shapes=options.shapes,
        again=options.again,
        until=until,
    )


def checked(op: str, device: str) -> Iterator[contests.Size]:
    """Compare an op's backends with fp64 on its small sizes, in each type."""
    for size in contests.sizes(op, device, small=True):
        for dtype in TYPES[device]:
            yield size._replace(dtype=dtype)


def table(folder: Path | None, facts: Row) -> Table | None:
    """The rows of all ops."""
    return None if folder is None else Table(folder / "ops.csv", KEY, facts)


def limits(device: str, quick: bool, again: bool, facts: Row, folder: Path | None) -> None:
    """Measure the device's ceilings and print them, unless the results have them of this run's code and device."""
    kept = None if folder is None else Table(folder / "ceilings.csv", ("ceiling",), facts, again=again)
    rows = [] if kept is None else kept.rows
    if not rows:
        sizes = (64, (512,)) if quick else (ceilings.MEGABYTES,)
        rows = ceilings.rows(ceilings.measured(device, QUICK if quick else FULL, *sizes))
        if kept is not None:
            kept.add(*rows)
    for row in rows:
        print(f"  {row['ceiling']}: {float(row['value']):.4g} {row['unit']}")


if __name__ == "__main__":
    sys.exit(main())
