"""``python -m benchmarks.gpu [PART ...]``: run the parts of the GPU suite, the most informative first; see ../README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.folders import results_folder
from benchmarks.gpu import command
from benchmarks.gpu.order import Estimates, ordered
from benchmarks.gpu.part import GREEN, LONGEST, RED, UNFINISHED, Outcome, Part, Setting
from benchmarks.gpu.parts import parts
from glide_fast.bench.provenance import provenance
from glide_fast.bench.record import Row, Table, read

GRACE = 25.0
"""Seconds that a part may run beyond its time before it is killed, so that it can end by itself."""
EXIT_UNFINISHED = 3


def states(setting: Setting) -> Table:
    """The table in parts.csv, with the outcome of each part."""
    return Table(setting.folder / "parts.csv", ("part",), setting.facts)


def note(setting: Setting, part: Part, outcome: Outcome, seconds: float) -> Row:
    """Add a part's outcome to parts.csv; returns the row."""
    row = {
        "part": part.name,
        "state": outcome.state,
        "seconds": f"{seconds:.0f}",
        "tries": str(outcome.tries),
        "files": " ".join(file.name for file in outcome.files),
        "notes": "; ".join(outcome.notes),
    }
    states(setting).add(row)
    return row


def outside(part: Part, setting: Setting, seconds: float) -> Outcome | None:
    """Run a part in a new process, which adds its outcome to parts.csv. Returns None if it did, else the outcome to add."""
    arguments = [
        "--inside",
        "--device",
        setting.device,
        "--out",
        str(setting.folder),
        "--seconds",
        f"{seconds:.0f}",
    ]
    arguments += ["--small"] * setting.small + ["--again"] * setting.again
    ran = command.run(
        [sys.executable, "-m", "benchmarks.gpu", part.name, *arguments],
        seconds + GRACE,
        {
            "OMP_NUM_THREADS": setting.facts["threads"]
        },  # as here: rows with another number count as another run's
    )
    row = states(setting).find(part.name)
    if ran.status == 0 and row is not None and row["when"] >= setting.facts["when"]:
        return None
    ended = f"was ended after {seconds + GRACE:.0f} s"
    said = ended if ran.status is None else f"exit status {ran.status}"
    return Outcome(RED, notes=(f"{said}: {ran.tail}",))


def attempt(part: Part, setting: Setting, seconds: float) -> Row:
    """Run a part for at most so many seconds, in this process or another; prints its outcome and returns its row.

    There is a row also after a crash, and for a part that had to be killed.
    """
    start = time.monotonic()
    if part.in_process:
        before = states(setting).find(part.name)
        tries = int(before["tries"] or 0) if before else 0
        outcome: Outcome | None = part.run(setting._replace(until=start + seconds, tries=tries))
    else:
        outcome = outside(part, setting, seconds)
    if outcome is not None:
        note(setting, part, outcome, time.monotonic() - start)
    row = states(setting).find(part.name)
    assert row is not None
    files = ", ".join(str(setting.folder / name) for name in row["files"].split())
    print(
        f"== {part.name}: {row['state'].upper()} in {row['seconds']} s{': ' * bool(files)}{files}", flush=True
    )
    if row["notes"]:
        print(f"   {row['notes']}", flush=True)
    return row


def run(chosen: Sequence[Part], setting: Setting, minutes: float, *, kept: bool) -> list[str]:
    """Run parts while they fit into the time; returns their states.

    Args:
        kept: skip the parts that are green already.
    """
    end = time.monotonic() + 60 * minutes
    estimates = Estimates(chosen, read(setting.folder / "parts.csv"))
    found = []
    for part in chosen:
        row = states(setting).find(part.name)
        if kept and row and row["state"] == GREEN:
            print(f"== {part.name}: green already", flush=True)
            found.append(GREEN)
            continue
        left = end - time.monotonic() - (0 if part.in_process else GRACE)
        if estimates.needs(part) > left:
            print(
                f"== {part.name}: not begun: takes about {estimates.seconds(part):.0f} s, {left:.0f} s are left"
            )
            found.append(UNFINISHED)
            continue
        print(f"== {part.name}: {part.about} (about {estimates.seconds(part):.0f} s)", flush=True)
        row = attempt(part, setting, min(LONGEST, left))
        found.append(row["state"])
        if row["state"] == GREEN:
            estimates.note(part.name, float(row["seconds"]))
    return found


def listed(chosen: Sequence[Part], setting: Setting) -> str:
    """A list for people: the parts in their order, each with its state or its estimated time."""
    table, estimates = states(setting), Estimates(chosen, read(setting.folder / "parts.csv"))
    lines = []
    for part in chosen:
        row = table.find(part.name)
        state = row["state"] if row else "-"
        lines.append(f"{part.name:36} {state:12} {estimates.seconds(part):4.0f} s  {part.about}")
    return "\n".join(lines)


def selected(known: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """The parts that have these names, or names that begin with them; KeyError for a name without a part."""
    for name in names:
        if not any(_is(part, name) for part in known):
            raise KeyError(name)
    return [part for part in known if not names or any(_is(part, name) for name in names)]


def _is(part: Part, name: str) -> bool:
    return part.name == name or part.name.startswith(f"{name} ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 where every part is green, :data:`EXIT_UNFINISHED` where some are to go on, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split(": ", 1)[1])
    parser.add_argument(
        "part", nargs="*", help="which, such as step or 'step base 2'; all that are not green yet otherwise"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin nothing that would not end in this time",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="name the parts in their order and what became of them, run nothing",
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, which only test the suite itself")
    parser.add_argument(
        "--again", action="store_true", help="measure also what the results have already for this code"
    )
    parser.add_argument("--out", type=Path, help="where to write; benchmarks/results/<device> otherwise")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=LONGEST, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu --small tests the suite itself")
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu only tests the suite itself: add --small")
    if options.small and options.out is None:
        parser.error("--small measures nothing worth keeping: say where with --out")
    folder = (options.out or results_folder(options.device)).resolve()
    setting = Setting(options.device, folder, provenance(options.device), options.small, options.again)
    known = ordered(parts(setting))
    try:
        chosen = selected(known, options.part)
    except KeyError as unknown:
        groups = dict.fromkeys(part.name.split(" ")[0] for part in known)
        parser.error(f"no part {unknown.args[0]}; the parts are {', '.join(groups)}")
    if options.list:
        print(listed(chosen, setting))
        return 0
    if options.inside:
        (part,) = (part for part in chosen if part.name == options.part[0])
        start = time.monotonic()
        outcome = part.run(setting._replace(until=start + options.seconds))
        note(setting, part, outcome, time.monotonic() - start)
        return 0
    found = run(chosen, setting, options.minutes, kept=not (options.again or options.part))
    print(f"Results: {folder}")
    if set(found) <= {GREEN}:
        return 0
    return EXIT_UNFINISHED if set(found) <= {GREEN, UNFINISHED} else 1


if __name__ == "__main__":
    sys.exit(main())
