"""``python -m benchmarks.gpu [PART ...]``: run the parts of the GPU suite, each in a process of its own; see ../README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.folders import results_folder
from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNFINISHED, Outcome, Part, Setting
from benchmarks.gpu.parts import parts
from benchmarks.gpu.table import Table
from glide_fast.bench.provenance import provenance

GRACE = 25.0
"""Seconds beyond its own that a part has to come to an end by itself."""
EXIT_UNFINISHED = 3


def states(setting: Setting) -> Table:
    """What became of each part, in parts.csv."""
    return Table(setting._replace(again=False), "parts", ("part",))


def note(setting: Setting, part: Part, outcome: Outcome, seconds: float) -> None:
    """Write a part's outcome down."""
    states(setting).add(
        {
            "part": part.name,
            "state": outcome.state,
            "seconds": f"{seconds:.0f}",
            "files": " ".join(file.name for file in outcome.files),
            "notes": "; ".join(outcome.notes),
        }
    )


def inside(part: Part, setting: Setting) -> None:
    """Run a part in this process."""
    start = time.monotonic()
    outcome = part.run(setting._replace(until=start + part.seconds))
    note(setting, part, outcome, time.monotonic() - start)


def outside(part: Part, setting: Setting, arguments: Sequence[str]) -> str:
    """Run a part in a process of its own; returns its state, which a crash or an endless part cannot leave unsaid."""
    start = time.monotonic()
    ran = command.run(
        [sys.executable, "-m", "benchmarks.gpu", part.name, "--inside", *arguments],
        part.seconds + GRACE,
        {"OMP_NUM_THREADS": setting.facts["threads"]},  # as many as here, or its results are another run's
    )
    row = states(setting).find(part.name)
    if ran.status != 0 or row is None or row["when"] < setting.facts["when"]:
        said = (
            f"was ended after {part.seconds + GRACE:.0f} s"
            if ran.status is None
            else f"exit status {ran.status}"
        )
        note(setting, part, Outcome(RED, notes=(f"{said}: {ran.tail}",)), time.monotonic() - start)
    row = states(setting).find(part.name)
    assert row is not None
    files = ", ".join(str(setting.folder / name) for name in row["files"].split())
    print(
        f"== {part.name}: {row['state'].upper()} in {row['seconds']} s{': ' * bool(files)}{files}", flush=True
    )
    if row["notes"]:
        print(f"   {row['notes']}", flush=True)
    return row["state"]


def listed(setting: Setting) -> str:
    """The parts, and what is known of each."""
    table = states(setting)
    lines = []
    for part in parts():
        row = table.find(part.name)
        lines.append(f"{part.name:24} {row['state'] if row else '-':12} {part.seconds:4.0f} s  {part.about}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where every part is green, :data:`EXIT_UNFINISHED` where some are to go on, else 1."""
    known = {part.name: part for part in parts()}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split(": ", 1)[1])
    parser.add_argument("part", nargs="*", help="which; all that are not green yet otherwise")
    parser.add_argument(
        "--list", action="store_true", help="name the parts and what became of them, run nothing"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes that only try the plumbing")
    parser.add_argument(
        "--again", action="store_true", help="also what the results have of this code already"
    )
    parser.add_argument("--out", type=Path, help="where to write; benchmarks/results/<device> otherwise")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.part) - set(known):
        parser.error(f"no part {', '.join(sorted(unknown))}; the parts are {', '.join(known)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --small tries the plumbing")
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu is for trying the plumbing: say --small, too")
    if options.small and options.out is None:
        parser.error("--small measures nothing worth keeping: say where with --out")
    folder = (options.out or results_folder(options.device)).resolve()
    setting = Setting(options.device, folder, provenance(options.device), options.small, options.again)
    if options.list:
        print(listed(setting))
        return 0
    chosen = [known[name] for name in options.part] or list(known.values())
    if options.inside:
        inside(chosen[0], setting)
        return 0
    passed_on = ["--device", options.device, "--out", str(folder)]
    passed_on += ["--small"] * options.small + ["--again"] * options.again
    found = []
    for part in chosen:
        row = states(setting).find(part.name)
        if row and row["state"] == GREEN and not (options.again or options.part):
            print(f"== {part.name}: green already", flush=True)
            found.append(GREEN)
        else:
            print(f"== {part.name}: {part.about} (at most {part.seconds:.0f} s)", flush=True)
            found.append(outside(part, setting, passed_on))
    print(f"Results: {folder}")
    if set(found) <= {GREEN}:
        return 0
    return EXIT_UNFINISHED if set(found) <= {GREEN, UNFINISHED} else 1


if __name__ == "__main__":
    sys.exit(main())
