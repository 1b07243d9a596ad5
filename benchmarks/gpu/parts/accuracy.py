"""Error of every op's backends against fp64, in each type, at awkward sizes. At GLIDE's sizes it is in the op suites' files."""

from __future__ import annotations

from benchmarks.gpu.part import GREEN, RED, UNFINISHED, Outcome, Part, Setting
from benchmarks.gpu.probes import PROBES, look
from benchmarks.gpu.table import Table


def run(setting: Setting) -> Outcome:
    table = Table(setting, "accuracy-ops", ("op", "what", "dtype", "backend"))
    done = {(row["op"], row["what"]) for row in table.rows}
    for probe in PROBES:
        if (probe.op, probe.what) in done:
            continue
        if setting.time_is_up:
            return Outcome(UNFINISHED, (table.file,))
        for found in list(look(probe, setting.device)):
            ran = not found.reason
            table.add(
                {
                    "op": probe.op,
                    "what": probe.what,
                    "dtype": str(found.dtype).removeprefix("torch."),
                    "backend": found.backend,
                    "gate": ("red" if found.wrong else "green") if ran else "",
                    "error": f"{found.error:.3g}" if ran else "",
                    "reference_error": f"{found.reference_error:.3g}" if ran else "",
                    "allowed": f"{found.allowed:.3g}" if ran else "",
                    "note": found.reason or found.crash,
                }
            )
    red = [
        f"{row['op']} {row['what']} {row['dtype']} {row['backend']}"
        for row in table.rows
        if row["gate"] == "red"
    ]
    return Outcome(RED if red else GREEN, (table.file,), tuple(red))


PARTS = (Part("accuracy-ops", "error of every backend against fp64", run),)
