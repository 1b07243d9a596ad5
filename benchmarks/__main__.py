"""``python -m benchmarks``: measure ops and write the results; see README.md beside this file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import ceilings, record
from benchmarks.case import Case, Result, measure
from benchmarks.suites import group_norm_act, guided_step, text_attention
from benchmarks.timing import FULL, QUICK

SUITES = {"group_norm_act": group_norm_act, "text_attention": text_attention, "guided_step": guided_step}


def told(case: Case, results: list[Result]) -> Iterator[str]:
    """A case's results, for people."""
    yield f"{case.op} {case.model} {case.shape} {str(case.dtype).removeprefix('torch.')}"
    for result in sorted(results, key=lambda r: r.timing.median):
        spread = f"{result.timing.lower:.1f} to {result.timing.upper:.1f}"
        if result.gate == "red":
            speed = f"refused: error {result.error:.2g}, allowed {result.allowed:.2g}"
        else:
            speed = "" if result.speedup is None else f"{result.speedup:.2f}x"
        yield f"  {result.timing.median:12.1f} us ({spread})  {result.contestant:32} {speed}"
    yield from (f"  {name}: {reason}" for name, reason in case.declined.items())


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if any contestant's result was wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":")[0])
    parser.add_argument("--op", choices=sorted(SUITES), action="append", help="only these; all otherwise")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--threads", type=int, help="of torch on the CPU; its own choice otherwise")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it takes minutes")
    parser.add_argument(
        "--quick", action="store_true", help="one size of each model, few samples, nothing recorded"
    )
    parser.add_argument("--out", type=Path, help="where to write; benchmarks/results/<device> otherwise")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    effort = QUICK if options.quick else FULL
    facts = record.provenance(options.device)
    folder = options.out or (None if options.quick else record.RESULTS / record.slug(facts["device"]))
    print(", ".join(f"{name} {value}" for name, value in facts.items() if value))

    limits = ceilings.measured(
        options.device, effort, **({"megabytes": 64, "side": 512} if options.quick else {})
    )
    for name, (value, unit) in limits.items():
        print(f"  {name}: {value:.1f} {unit}")
    if folder:
        table = [facts | {"ceiling": n, "value": f"{v:.3f}", "unit": unit} for n, (v, unit) in limits.items()]
        record.write(folder / "ceilings.csv", table)

    red = False
    for op in options.op or SUITES:
        table = []
        for case in SUITES[op].cases(
            options.device, not (options.no_compile or options.quick), options.quick
        ):
            results = measure(case, effort)
            print("\n".join(told(case, results)), flush=True)
            table += [facts | row for row in record.rows(case, results)]
            red = red or any(result.gate == "red" for result in results)
            if folder:  # after each case: an interrupted run keeps what it has
                record.write(folder / f"{op}.csv", table)
            torch.compiler.reset()
    return int(red)


if __name__ == "__main__":
    sys.exit(main())
