"""The op suites against every contestant, a part for each op, and the device's ceilings."""

from __future__ import annotations

import functools

from benchmarks import suites
from benchmarks.gpu.part import GREEN, Outcome, Part, Setting, conclude
from benchmarks.gpu.table import Table
from benchmarks.ops import run_suite
from glide_fast.bench import ceilings
from glide_fast.bench.timing import FULL, QUICK


def run(op: str, setting: Setting) -> Outcome:
    """Without torch.compile first, so that a first visit brings all else home; then with it, as far as the time goes."""
    suite, file = suites.found()[op], setting.folder / f"{op}.csv"
    effort = QUICK if setting.small else FULL
    passes = (False,) if setting.small else (True,) if setting.again else (False, True)
    for compile_too in passes:
        done = run_suite(
            suite.cases(setting.device, compile_too, setting.small),
            effort,
            setting.facts,
            file,
            again=setting.again,
            until=setting.until,
        )
        if done.unfinished:
            break
    left = f"case {done.measured + done.kept + 1}{' with torch.compile' * compile_too}"
    return conclude(file, done.red, left if done.unfinished else "")


def measure_ceilings(setting: Setting) -> Outcome:
    table = Table(setting, "ceilings", ("ceiling",))
    if not table.rows:
        if setting.small:
            found = ceilings.measured(setting.device, QUICK, megabytes=8, sides=(128,))
        else:
            found = ceilings.measured(setting.device, FULL, megabytes=1024)
        for name, (value, unit) in found.items():
            table.add({"ceiling": name, "value": f"{value:.3f}", "unit": unit})
            print(f"{name}: {value:.4g} {unit}")
    return Outcome(GREEN, (table.file,))


PARTS = (
    Part("ceilings", "bandwidth of copies, best matrix products, shortest call", measure_ceilings),
    *(
        Part(f"ops-{name}", f"{name} against every contestant", functools.partial(run, name))
        for name in suites.found()
    ),
)
