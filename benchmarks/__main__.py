"""``python -m benchmarks``: measure ops and write the results; see README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from benchmarks import ops, record, suites
from benchmarks.folders import results_folder
from glide_fast.bench import ceilings
from glide_fast.bench.provenance import provenance, same_run
from glide_fast.bench.timing import FULL, QUICK

SUITES = suites.found()
UNFINISHED = 3
"""Exit status where the time was up: the same command goes on from there."""


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if any result was wrong, :data:`UNFINISHED` if cases are left, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":")[0])
    parser.add_argument("--op", choices=sorted(SUITES), action="append", help="only these; all otherwise")
    parser.add_argument(
        "--shapes", default="", metavar="REGEX", help="only cases whose line has it, such as 'base 2x'"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, help="of torch on the CPU; its own choice otherwise")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes minutes")
    parser.add_argument(
        "--again", action="store_true", help="measure what the results have of this code, too"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="begin no case after this time; run again to go on",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one size of each model, few samples, nothing recorded"
    )
    parser.add_argument("--out", type=Path, help="where to write; benchmarks/results/<device> otherwise")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.seconds
    if options.threads:
        torch.set_num_threads(options.threads)
    effort = QUICK if options.quick else FULL
    facts = provenance(options.device)
    folder = options.out or (None if options.quick else results_folder(options.device))
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value))

    limits(options.device, options.quick, options.again, facts, folder)
    red: list[str] = []
    unfinished = False
    for op in options.op or SUITES:
        compile_too = not (options.no_compile or options.quick)
        done = ops.run_suite(
            SUITES[op].cases(options.device, compile_too, options.quick),
            effort,
            facts,
            folder and folder / f"{op}.csv",
            shapes=options.shapes,
            again=options.again,
            until=until,
        )
        red += done.red
        unfinished = unfinished or done.unfinished
        print(
            f"{op}: {done.measured} cases measured, {done.kept} kept{', more to go' * done.unfinished}",
            flush=True,
        )
    print("\n".join(f"WRONG: {line}" for line in red))
    return 1 if red else UNFINISHED if unfinished else 0


def limits(device: str, quick: bool, again: bool, facts: dict[str, str], folder: Path | None) -> None:
    """Measure and tell the device's ceilings, unless the results have them of this run's code and device."""
    file = folder and folder / "ceilings.csv"
    table = [row for row in record.read(file) if same_run(row, facts)] if file else []
    if again or not table:
        found = ceilings.measured(
            device, QUICK if quick else FULL, *((64, (512,)) if quick else (ceilings.MEGABYTES,))
        )
        table = [facts | {"ceiling": n, "value": f"{v:.3f}", "unit": unit} for n, (v, unit) in found.items()]
        if file:
            record.write(file, table)
    for row in table:
        print(f"  {row['ceiling']}: {float(row['value']):.4g} {row['unit']}")


if __name__ == "__main__":
    sys.exit(main())
