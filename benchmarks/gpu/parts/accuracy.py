"""Error of every op's backends against fp64, in each type, at awkward sizes. At GLIDE's sizes it is in the op suites' files."""

from __future__ import annotations

from benchmarks.gpu.part import Outcome, Part, Setting, conclude
from benchmarks.gpu.probes import PROBES, look
from benchmarks.gpu.table import Table


def run(setting: Setting) -> Outcome:
    table = Table(setting, "accuracy-ops", ("op", "what", "dtype", "backend"))
    done = {(row["op"], row["what"]) for row in table.rows}
    for probe in PROBES:
        if (probe.op, probe.what) in done:
            continue
        if setting.time_is_up:
            return conclude(table.file, wrong(table), f"{probe.op} {probe.what}")
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
    seen = {row["op"] for row in table.rows if row["gate"]}
    idle = dict.fromkeys(row["op"] for row in table.rows if row["op"] not in seen)
    return conclude(table.file, [*wrong(table), *(f"no backend of {op} ran" for op in idle)])


def wrong(table: Table) -> list[str]:
    """The rows whose gate is red."""
    return [" ".join(row[name] for name in table.key) for row in table.rows if row["gate"] == "red"]


PARTS = (Part("accuracy-ops", "error of every backend against fp64", run),)
