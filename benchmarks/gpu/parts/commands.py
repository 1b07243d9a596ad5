"""Measuring whole models: a part is one ``glide-fast bench`` or ``glide-fast profile`` command on one model."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, LONGEST, RED, UNFINISHED, Outcome, Part, Setting
from benchmarks.gpu.tiny import pipeline
from glide_fast.bench.contest import OURS
from glide_fast.bench.measurement import KEY
from glide_fast.bench.record import Table, read

TRIES = 2
"""How often a command may fail to end in the longest time of a part, before it is given up."""
ENVIRONMENT = {
    # Otherwise cuDNN would convolve fp32 in TF32, and the fp32 results that count as the truth would be as inexact as fp16.
    "NVIDIA_TF32_OVERRIDE": "0"
}


class Command(NamedTuple):
    """One command of ``glide-fast``, and its name in the results.

    ``foreign`` ones measure baselines; where these take longer than the part may, that is noted and the part is not red.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float
    foreign: bool = False

    @property
    def file(self) -> str:
        """The file that the command's rows are added to."""
        return "profile" if self.arguments[0] == "profile" else "models"

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that name a row of the file."""
        names = ("op", "backend", "shape", "dtype") if self.file == "profile" else KEY
        return ("case", *names)


Size = tuple[str, "int | None", float]
"""A model, or several with + between; the rows of a call or the pictures (None: the command's own choice); and seconds."""


def run(asked: Command, setting: Setting) -> Outcome:
    """Run a command and keep its rows."""
    seconds = setting.seconds_left
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.csv"
        call = [sys.executable, "-m", "glide_fast", *asked.arguments]
        ran = command.run([*call, "--device", setting.device, "--csv", str(file)], seconds, ENVIRONMENT)
        rows = read(file)
    kept = Table(setting.folder / f"{asked.file}.csv", asked.key, setting.facts)
    if rows:  # a command that was ended early has written some
        named = {"case": asked.name}
        kept.add(*(named | {k: v for k, v in row.items() if k not in kept.facts} for row in rows))
    files = (kept.file,) if rows else ()
    if ran.status is None:
        tries = setting.tries + (seconds > 0.9 * LONGEST)
        state = UNFINISHED if tries < TRIES else GREEN if asked.foreign else RED
        return Outcome(state, files, (f"did not end in {seconds:.0f} s",), tries)
    if ran.status != 0 or not rows:
        return Outcome(RED, files, (f"exit status {ran.status}: {ran.tail}",))
    ours = [row for row in rows if row.get("contestant", "").startswith(OURS)]
    wrong = tuple(f"{row['contestant']} is wrong" for row in ours if row.get("gate") == RED)
    return Outcome(RED if wrong else GREEN, files, wrong)


def bench(
    part: str, sizes: Sequence[Size], *options: str, label: str = "", group: str = "", foreign: bool = False
) -> Iterator[Command]:
    """``glide-fast bench PART`` (or ``profile``) on each size, as parts of a group."""
    front = ("profile",) if part == "profile" else ("bench", part)
    for names, batch, seconds in sizes:
        models = names.split("+")
        title = "+".join(Path(name).name for name in models)
        words = (group, part, title, "" if batch is None else str(batch), label)
        chosen = [word for each in models for word in ("--model", each)]
        rows = [] if batch is None else ["--batch", str(batch)]
        yield Command(" ".join(filter(None, words)), (*front, *chosen, *rows, *options), seconds, foreign)


RELEASED: tuple[Size, ...] = (
    ("base", 2, 40),
    ("base", 8, 40),
    ("base", 32, 50),
    ("upsample", 1, 40),
    ("upsample", 4, 50),
    ("upsample", 8, 60),
)
PAPER: tuple[Size, ...] = tuple((f"paper-{model}", batch, 2 * seconds) for model, batch, seconds in RELEASED)
EAGER = ("--baselines", "eager,eager-cached-text,eager-half,official")
COMPILED = ("--baselines", "eager,eager-half,compile,compile-strong")
MEASURED = ("--samples", "15", "--seconds", "30")
TRIED = ("--samples", "2", "--seconds", "0")


def slower(sizes: Sequence[Size], times: float) -> list[Size]:
    """``sizes`` with their expected seconds multiplied by ``times``."""
    return [(model, batch, times * seconds) for model, batch, seconds in sizes]


def commands(setting: Setting) -> Iterator[Command]:
    """All commands, in any order; with ``small`` one of each kind, on a tiny pipeline."""
    if setting.small:
        yield from small(str(setting.folder / "tiny"))
        return
    one = [RELEASED[0], RELEASED[3]]
    yield from bench("step", (*RELEASED, *PAPER), *EAGER, *MEASURED)
    yield from bench("step", one, *EAGER, *MEASURED, "--dtype", "bf16", group="bf16")
    yield from bench("profile", (*RELEASED, PAPER[0], PAPER[3]), "--samples", "15")
    ablated = [RELEASED[0], RELEASED[3], RELEASED[2], RELEASED[4]]
    yield from bench(
        "step", slower(ablated, 2), "--ablate", "--baselines", "eager-half", *MEASURED, group="ablation"
    )
    loops: list[Size] = [
        ("base", 1, 60),
        ("upsample", 1, 60),
        ("base", 4, 60),
        ("base", 16, 90),
        ("upsample", 4, 90),
    ]
    few = ("--samples", "5", "--seconds", "30")
    yield from bench("loop", loops[:2], "--steps", "100", *EAGER, *few, label="100 steps")
    yield from bench("loop", loops, "--steps", "25", *EAGER, *few, label="25 steps")
    both = "base+upsample"
    pictures: list[Size] = [(both, 1, 60), (both, 4, 90), (both, 16, 180)]
    yield from bench("pipeline", pictures, "--samples", "5", "--seconds", "60")
    yield from bench(
        "pipeline", pictures, "--steps", "25", "--samples", "5", "--seconds", "60", label="25 steps"
    )
    yield from bench("pipeline", [("paper-base+paper-upsample", 1, 150)])
    yield from bench("cold-start", [(both, None, 120), ("small", None, 60)], "--samples", "3")
    yield from bench("memory", [(both, None, 60), ("paper-base+paper-upsample", None, 90)])
    yield from bench("quality", [("small", 4, 90)], "--samples", "3")
    foreign = {"group": "compiled", "foreign": True}
    yield from bench("step", slower([*RELEASED, PAPER[0], PAPER[3]], 10), *COMPILED, *MEASURED, **foreign)  # type: ignore[arg-type]
    compiled_loops = slower(loops[:2], 7)
    yield from bench("loop", compiled_loops, "--steps", "25", *COMPILED, *few, label="25 steps", **foreign)  # type: ignore[arg-type]


def small(tiny: str) -> Iterator[Command]:
    """One command of each kind, on a tiny pipeline."""
    none = ("--baselines", "none")
    # In fp32: on one tiny picture the error of half precision is a matter of chance.
    fp32 = ("--dtype", "fp32", "--baselines", "eager")
    yield from bench("step", [(tiny, 2, 10)], "--baselines", "eager,eager-half", *TRIED)
    yield from bench("step", [(tiny, 2, 20)], "--ablate", *none, *TRIED, group="ablation")
    yield from bench("loop", [(tiny, 1, 10)], "--steps", "2", *fp32, *TRIED)
    yield from bench("pipeline", [(tiny, 1, 10)], "--steps", "2", *TRIED)
    yield from bench("cold-start", [(tiny, None, 10)], "--steps", "1", *none, *TRIED)
    yield from bench("memory", [(tiny, None, 10)], "--steps", "1", *none)
    yield from bench("quality", [(tiny, None, 10)], "--steps", "4", *TRIED)
    yield from bench("profile", [(tiny, 2, 10)], "--samples", "2")


def ready(asked: Command, setting: Setting) -> Outcome:
    """Run a command; the tiny pipeline is written first if the command needs it."""
    if setting.small:
        pipeline(setting.folder / "tiny")
    return run(asked, setting)


def parts(setting: Setting) -> tuple[Part, ...]:
    return tuple(
        Part(
            one.name,
            f"glide-fast {' '.join(one.arguments[:2])}",
            functools.partial(ready, one),
            one.seconds,
            in_process=True,
        )
        for one in commands(setting)
    )
