"""The op suites: every backend against fp64, in each type at small sizes, and against all contestants; the device's limits."""

from __future__ import annotations

import functools
import itertools

from benchmarks import contests, suites
from benchmarks.__main__ import checked
from benchmarks.contests import run_suite
from benchmarks.gpu.part import GREEN, Outcome, Part, Setting, conclude
from glide_fast.bench import ceilings
from glide_fast.bench.measurement import KEY
from glide_fast.bench.record import Table
from glide_fast.bench.timing import FULL, QUICK


def rows(setting: Setting) -> Table:
    """The file of all ops."""
    return Table(setting.folder / "ops.csv", KEY, setting.facts)


def check(setting: Setting) -> Outcome:
    """Compare all ops' backends with fp64 in each type; also red if no backend of an op ran."""
    table = rows(setting)
    red: list[str] = []
    idle: list[str] = []
    for op in suites.found():
        sizes = itertools.islice(checked(op, setting.device), 2 if setting.small else None)
        done = run_suite(
            contests.reference_alone(op), sizes, None, table, again=setting.again, until=setting.until
        )
        red += done.red
        if done.unfinished:
            return conclude(table.file, red, op)
        ran = done.ran or done.kept or not contests.cases_on(op, setting.device)
        idle += [] if ran else [f"no backend of {op} ran"]
    return conclude(table.file, [*red, *idle])


def run(op: str, compiled: bool, setting: Setting) -> Outcome:
    """Run one op's suite at GLIDE's sizes."""
    table = rows(setting)
    done = run_suite(
        suites.found()[op],
        contests.sizes(op, setting.device, quick=setting.small, small=setting.small),
        QUICK if setting.small else FULL,
        table,
        compiled=compiled,
        again=setting.again,
        until=setting.until,
    )
    return conclude(table.file, done.red, f"call {done.measured + done.kept + 1}" if done.unfinished else "")


def measure_ceilings(setting: Setting) -> Outcome:
    table = Table(setting.folder / "ceilings.csv", ("ceiling",), setting.facts, again=setting.again)
    if not table.rows:
        if setting.small:
            found = ceilings.measured(setting.device, QUICK, megabytes=8, sides=(128,))
        else:
            found = ceilings.measured(setting.device, FULL, megabytes=1024)
        table.add(*ceilings.rows(found))
    print("\n".join(f"{row['ceiling']}: {row['value']} {row['unit']}" for row in table.rows))
    return Outcome(GREEN, (table.file,))


def parts(setting: Setting) -> tuple[Part, ...]:
    names = list(suites.found())
    timed = (
        Part(f"ops {op}", f"{op} against every contestant", functools.partial(run, op, False), 120, least=30)
        for op in names
    )
    compiled = (
        Part(
            f"compiled-ops {op}",
            f"{op} with torch.compile as well",
            functools.partial(run, op, True),
            500,
            least=90,
        )
        for op in names
    )
    return (
        Part("check", "error of every backend against fp64 in each type", check, 60, least=20),
        Part("ceilings", "bandwidth of copies, best matrix products, shortest call", measure_ceilings, 30),
        *timed,
        *(() if setting.small else compiled),
    )
