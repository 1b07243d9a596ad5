"""Whole models by ``glide-fast bench`` and ``glide-fast profile``: a case is one such command, in a process of its own.

What needs more than the time that is left is ended with it and begun again by the next run, which then has all of the time and
the compilers' caches.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, LONGEST, RED, UNFINISHED, Outcome, Part, Setting, conclude
from benchmarks.gpu.table import Table
from benchmarks.gpu.tiny import pipeline
from glide_fast.bench.contestants import OURS
from glide_fast.bench.files import Row, read

LEAST = 45.0
"""Seconds; with fewer left no case is begun."""
TRIES = 2
"""Of a case that has not come to an end in all of a part's time."""
ENVIRONMENT = {
    # cuDNN would otherwise convolve fp32 in TF32, and what counts as truth would be no truer than fp16.
    "NVIDIA_TF32_OVERRIDE": "0"
}
BENCH_KEY = ("case", "part", "model", "work", "contestant")
PROFILE_KEY = ("case", "op", "backend", "shape", "dtype")


class Case(NamedTuple):
    """Arguments of ``glide-fast`` and the name they have in the results.

    ``foreign`` cases are about baselines that may take longer than they are given: that is told, and is no fault of ours.
    """

    name: str
    arguments: tuple[str, ...]
    foreign: bool = False


class Batch(NamedTuple):
    """The cases of a part, in the order of their worth, and the columns that name a row of its file."""

    cases: tuple[Case, ...]
    key: tuple[str, ...] = BENCH_KEY


Size = tuple[str, "int | None"]
"""A model, or several with + between, and the rows of a call or the pictures; None is each part's own choice."""


def asked(command: Sequence[str], size: Size, *options: str, label: str = "", foreign: bool = False) -> Case:
    """The case of a command on a model."""
    names, batch = size[0].split("+"), size[1]
    told = "+".join(Path(name).name for name in names)
    name = " ".join(filter(None, (told, "" if batch is None else str(batch), label)))
    models = [word for each in names for word in ("--model", each)]
    rows = [] if batch is None else ["--batch", str(batch)]
    return Case(name, (*command, *models, *rows, *options), foreign)


def bench(
    part: str, sizes: Sequence[Size], *options: str, label: str = "", foreign: bool = False
) -> tuple[Case, ...]:
    """A case of ``glide-fast bench PART`` for each size."""
    return tuple(asked(("bench", part), size, *options, label=label, foreign=foreign) for size in sizes)


def run(file: str, batch: Callable[[Setting], Batch], setting: Setting) -> Outcome:
    """Run the cases that are not green yet; rows go into ``file``.csv, what became of the cases into cases.csv."""
    cases, key = batch(setting)
    table, states = Table(setting, file, key), Table(setting, "cases", ("file", "case"))
    left = ""
    for case in cases:
        before = states.find(file, case.name)
        if before and before["state"] == GREEN:
            continue
        if setting.until - time.monotonic() < LEAST:
            left = case.name
            break
        state = one(case, int(before["tries"]) if before else 0, table, setting)
        states.add({"file": file, "case": case.name} | state)
        print(f"{file} {case.name}: {state['state']} {state['note']}", flush=True)
        if state["state"] == UNFINISHED:
            left = case.name
            break
    bad = [row for row in states.rows if row["file"] == file and row["state"] == RED]
    return conclude(table.file, [f"{row['case']}: {row['note']}" for row in bad], left)


def one(case: Case, tries: int, table: Table, setting: Setting) -> Row:
    """Run a case and keep its rows; returns what became of it."""
    start, seconds = time.monotonic(), setting.seconds_left
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.csv"
        call = [sys.executable, "-m", "glide_fast", *case.arguments]
        ran = command.run([*call, "--device", setting.device, "--csv", str(file)], seconds, ENVIRONMENT)
        rows = read(file)
    told = {"seconds": f"{time.monotonic() - start:.0f}", "tries": str(tries)}
    if ran.status is None:
        whole = seconds > 0.9 * LONGEST
        tries += whole
        told["tries"] = str(tries)
        if tries < TRIES:
            return told | {"state": UNFINISHED, "note": f"did not end in {seconds:.0f} s"}
        note = f"did not end in {seconds:.0f} s, {tries} times"
        return told | {"state": GREEN if case.foreign else RED, "note": note}
    if ran.status != 0 or not rows:
        return told | {"state": RED, "note": f"exit status {ran.status}: {ran.tail}"}
    for row in rows:
        table.add(
            {"case": case.name} | {name: value for name, value in row.items() if name not in table.facts}
        )
    wrong = [
        row["contestant"] for row in rows if row.get("gate") == RED and row["contestant"].startswith(OURS)
    ]
    return told | {"state": RED if wrong else GREEN, "note": "; ".join(f"{name} is wrong" for name in wrong)}


FILTERED: tuple[Size, ...] = (
    ("base", 2),
    ("base", 8),
    ("base", 32),
    ("upsample", 1),
    ("upsample", 4),
    ("upsample", 8),
)
PAPER: tuple[Size, ...] = tuple((f"paper-{model}", batch) for model, batch in FILTERED)
EAGER = ("--baselines", "eager,eager-cached-text,eager-half,official")
COMPILED = ("--baselines", "eager,eager-half,compile,compile-strong")
MEASURED = ("--samples", "15", "--seconds", "60")
TRIED = ("--samples", "2", "--seconds", "0")


def tiny(setting: Setting) -> str:
    """The directory of a tiny pipeline beside the results."""
    return str(pipeline(setting.folder / "tiny"))


def steps(setting: Setting) -> Batch:
    """glide_fast and what starts at once, at each size; then what has to be compiled."""
    if setting.small:
        return Batch(bench("step", [(tiny(setting), 2)], "--baselines", "eager,eager-half", *TRIED))
    bf16 = bench("step", [("base", 2), ("upsample", 1)], *EAGER, *MEASURED, "--dtype", "bf16", label="bf16")
    compiled = bench("step", FILTERED, *COMPILED, *MEASURED, foreign=True, label="compiled")
    large = bench("step", [PAPER[0], PAPER[3]], *COMPILED, *MEASURED, foreign=True, label="compiled")
    return Batch((*bench("step", (*FILTERED, *PAPER), *EAGER, *MEASURED), *bf16, *compiled, *large))


def ablation(setting: Setting) -> Batch:
    """A step without each thing that the runtime does."""
    options = ("--ablate", "--baselines", "eager-half")
    if setting.small:
        return Batch(bench("step", [(tiny(setting), 2)], *options, *TRIED))
    sizes = [FILTERED[0], FILTERED[3], FILTERED[2], FILTERED[4]]
    return Batch(bench("step", sizes, *options, *MEASURED))


def loops(setting: Setting) -> Batch:
    """Whole loops; ``--batch`` counts pictures."""
    if setting.small:
        sizes = [(tiny(setting), 1)]
        # In fp32: what half precision makes of one tiny picture is a matter of chance.
        return Batch(bench("loop", sizes, "--steps", "2", "--dtype", "fp32", "--baselines", "eager", *TRIED))
    sizes = [("base", 1), ("upsample", 1), ("base", 4), ("base", 16), ("upsample", 4), ("paper-base", 1)]
    measured = ("--samples", "5", "--seconds", "60")
    return Batch(
        (
            *bench("loop", sizes[:2], "--steps", "100", *EAGER, *measured, label="100 steps"),
            *bench("loop", sizes, "--steps", "25", *EAGER, *measured, label="25 steps"),
            *bench(
                "loop",
                sizes[:2],
                "--steps",
                "25",
                *COMPILED,
                *measured,
                label="25 steps compiled",
                foreign=True,
            ),
        )
    )


def pictures(setting: Setting) -> Batch:
    """From a prompt to its picture at the usual 100 + 27 steps, and with 25 a stage; latency at 1, throughput beyond."""
    if setting.small:
        return Batch(bench("pipeline", [(tiny(setting), 1)], "--steps", "2", *TRIED))
    sizes = [("base+upsample", 1), ("base+upsample", 4), ("base+upsample", 16)]
    measured = ("--samples", "5", "--seconds", "120")
    usual = bench("pipeline", sizes, *measured)
    fast = bench("pipeline", sizes, "--steps", "25", *measured, label="25 steps")
    return Batch(
        (*usual[:1], *fast[:1], *usual[1:], *fast[1:], *bench("pipeline", [("paper-base+paper-upsample", 1)]))
    )


def starts(setting: Setting) -> Batch:
    """From the start of a process to the first picture."""
    if setting.small:
        return Batch(
            bench("cold-start", [(tiny(setting), None)], "--steps", "1", "--baselines", "none", *TRIED)
        )
    return Batch(bench("cold-start", [("base+upsample", None), ("small", None)], "--samples", "3"))


def memory(setting: Setting) -> Batch:
    """The most memory of a process, at rising batches."""
    if setting.small:
        return Batch(bench("memory", [(tiny(setting), None)], "--steps", "1", "--baselines", "none"))
    return Batch(bench("memory", [("base+upsample", None), ("paper-base+paper-upsample", None)]))


def quality(setting: Setting) -> Batch:
    """The fast settings: seconds beside the difference from the full sampler, which means something of trained weights only."""
    if setting.small:
        return Batch(bench("quality", [(tiny(setting), None)], "--steps", "4", *TRIED))
    return Batch(bench("quality", [("small", 4)], "--samples", "3"))


def profiles(setting: Setting) -> Batch:
    """Where the time of a step goes."""
    if setting.small:
        return Batch((asked(("profile",), (tiny(setting), 2), "--samples", "2"),), PROFILE_KEY)
    sizes: list[Size] = [*FILTERED, PAPER[0], PAPER[3]]
    return Batch(tuple(asked(("profile",), size, "--samples", "15") for size in sizes), PROFILE_KEY)


def part(name: str, about: str, batch: Callable[[Setting], Batch]) -> Part:
    """A part whose file has its name."""
    return Part(name, about, functools.partial(run, name, batch))


PARTS = (
    part("step", "a step of each model, against eager and compiled torch", steps),
    part("ablation", "a step without each thing that the runtime does", ablation),
    part("loop", "a whole loop of each model, against eager and compiled torch", loops),
    part("pipeline", "seconds and pictures a second from prompt to picture", pictures),
    part("cold-start", "from the start of a process to the first picture", starts),
    part("memory", "the most memory that a process needs", memory),
    part("quality", "the fast settings: seconds and the difference from the full sampler", quality),
    part("profile", "where a step's time goes, against the roofline", profiles),
)
