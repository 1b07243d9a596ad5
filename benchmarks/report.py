"""``python -m benchmarks.report``: fill the marked tables of README.md and of the page on performance from the files of results/.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; this command replaces it. ``--check`` writes
nothing and ends with 1 if a table differs from the results. Nothing is estimated: a value that no file has is "unmeasured".
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.folders import RESULTS
from glide_fast.bench.contest import OURS
from glide_fast.bench.measurement import quantity
from glide_fast.bench.record import Row, read

ROOT = RESULTS.parents[1]
FILES = ("README.md", "docs/explanation/performance.md")
MARK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
UNMEASURED = "unmeasured"
GPU = "NVIDIA GPU"
EAGER, CACHED, HALF = (
    "reference eager",
    "reference eager, text encoded once",
    "eager half precision, channels-last",
)
STOCK, STRONG, FROZEN, OPENVINO = (
    "torch.compile max-autotune",
    "torch.compile, strong",
    "frozen Inductor bf16",
    "OpenVINO bf16",
)
BASELINES = {
    EAGER: "reference eager, text each step",
    CACHED: "reference eager, text once",
    HALF: "eager half precision",
    STOCK: "torch.compile",
    STRONG: "torch.compile, strong",
    FROZEN: "frozen Inductor",
    OPENVINO: "OpenVINO",
    "official package": "official package",
}
"""Contestants, and the heading of the column of each."""
GPU_STEPS = (
    ("base", "2 x 64 px"),
    ("base", "8 x 64 px"),
    ("base", "32 x 64 px"),
    ("upsample", "1 x 256 px"),
    ("upsample", "4 x 256 px"),
    ("upsample", "8 x 256 px"),
)
"""The models and batches whose steps tables list for a GPU, also before there are results."""


class Comparison(NamedTuple):
    """Rows that were measured against each other, by contestant."""

    file: str
    part: str
    model: str
    work: str
    rows: dict[str, Row]

    def value(self, contestant: str) -> float | None:
        """Seconds or MiB of a contestant; None where it has none, or computed something wrong."""
        row = self.rows.get(contestant)
        return None if row is None or not row["value"] or row["gate"] == "red" else float(row["value"])

    def ratio(self, contestant: str, of: str = OURS) -> float | None:
        """How many times as long as the contestant ``of`` another one took."""
        theirs, mine = self.value(contestant), self.value(of)
        return None if theirs is None or mine is None else theirs / mine


class Device(NamedTuple):
    """All results of one device."""

    name: str
    facts: Row  # of the latest row
    comparisons: tuple[Comparison, ...]
    others: dict[str, list[Row]]  # rows of the files that have no contestants, by the file's name

    @property
    def gpu(self) -> bool:
        return "nvidia" in self.name.lower()

    def of(self, part: str) -> list[Comparison]:
        """The comparisons of a part."""
        return [each for each in self.comparisons if each.part == part]

    def find(self, part: str, model: str, work: str, *contestants: str) -> Comparison | None:
        """The first comparison of this work in which all of these have a value; ``work`` may be its beginning."""
        for each in self.of(part):
            fits = each.model == model and each.work.startswith(work)
            if fits and all(each.value(contestant) is not None for contestant in contestants):
                return each
        return None

    @property
    def caption(self) -> str:
        """Device, threads, versions and commit, for above a table."""
        facts = self.facts
        threads = "" if self.gpu else f", {facts['threads']} threads"
        return f"**{self.name}**{threads}, torch {facts['torch']}, commit {facts['commit']}"


def devices(results: Path) -> list[Device]:
    """Every folder of results that has rows of a device, GPUs first."""
    found = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else ():
        comparisons: dict[tuple[str, ...], Comparison] = {}
        others: dict[str, list[Row]] = {}
        latest: Row = {}
        for file in sorted(folder.glob("*.csv")):
            rows = read(file)
            if not rows or "device" not in rows[0]:
                continue
            latest = max([latest, *rows], key=lambda row: row.get("when", ""))
            if not {"part", "model", "work", "contestant", "value"} <= set(rows[0]):
                others[file.stem] = rows
                continue
            for row in rows:
                key = (file.stem, row.get("case", ""), row["part"], row["model"], row["work"])
                group = comparisons.setdefault(key, Comparison(file.stem, *key[2:], {}))
                group.rows[row["contestant"]] = row
        if latest:
            found.append(Device(latest["device"], latest, tuple(comparisons.values()), others))
    return sorted(found, key=lambda device: (not device.gpu, device.name))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or "" where there are no rows; columns without any value are left out."""
    body = [list(row) for row in rows]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    if not body:
        return ""
    lines = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def amount(comparison: Comparison, contestant: str) -> str:
    """A contestant's value with its unit."""
    row, value = comparison.rows.get(contestant), comparison.value(contestant)
    if value is None or row is None:
        return "refused" if row is not None and row["gate"] == "red" else ""
    return quantity(value, row["unit"])


def per_device(table: Callable[[Device], str], known: Sequence[Device], gpu: str = "") -> str:
    """A table under each device's caption; ``gpu`` stands for the GPU that has no results."""
    parts = [f"{device.caption}\n\n{text}" for device in known if (text := table(device))]
    if not any(device.gpu and table(device) for device in known):
        parts.insert(0, gpu or f"**{GPU}**: {UNMEASURED}\n")
    return "\n".join(parts)


def speeds(known: Sequence[Device]) -> str:
    """The time of a step of each model and batch, and how many times as long the baselines take."""
    head = ["one step", OURS, *(f"over {title}" for title in BASELINES.values())]

    def of(device: Device) -> str:
        works = dict.fromkeys((each.model, each.work) for each in device.of("step"))
        rows = []
        for model, work in works:
            mine = device.find("step", model, work, OURS) or device.find("step", model, work)
            assert mine is not None
            ratios = []
            for baseline in BASELINES:
                both = device.find("step", model, work, OURS, baseline)
                ratios.append(times(both.ratio(baseline) if both else None))
            rows.append([f"{model}, {work}", amount(mine, OURS), *ratios])
        return markdown(head, rows)

    empty = [[f"{model}, {work}", *[UNMEASURED] * 4] for model, work in GPU_STEPS]
    columns = ["one step", OURS, *(f"over {BASELINES[name]}" for name in (EAGER, STOCK, STRONG))]
    return per_device(of, known, f"**{GPU}**\n\n{markdown(columns, empty)}")


def compared(part: str, first: str) -> Callable[[Sequence[Device]], str]:
    """glide_fast and all baselines on a part of the benchmarks, a line for each comparison."""

    def of(device: Device) -> str:
        groups = device.of(part)
        names = list(dict.fromkeys(name for group in groups for name in group.rows if name != OURS))
        head = [first, OURS, *names]
        return markdown(
            head,
            ([f"{g.model}, {g.work}", amount(g, OURS), *(amount(g, name) for name in names)] for g in groups),
        )

    return lambda known: per_device(of, known)


def ablation(known: Sequence[Device]) -> str:
    """How much longer a step takes without each of the runtime's features."""

    def of(device: Device) -> str:
        groups = [g for g in device.of("step") if any(name.startswith(f"{OURS}, ") for name in g.rows)]
        names = list(dict.fromkeys(n for g in groups for n in g.rows if n.startswith(f"{OURS}, ")))
        head = ["without it", *(f"{g.model}, {g.work}" for g in groups)]
        rows = []
        for name in names:
            cells = []
            for group in groups:
                mine, without = group.value(OURS), group.value(name)
                cells.append("" if mine is None or without is None else f"{without / mine - 1:+.0%}")
            if any(cells):
                rows.append([name.removeprefix(f"{OURS}, "), *(cell or "-" for cell in cells)])
        return markdown(head, rows)

    return per_device(of, known)


def quality(known: Sequence[Device]) -> str:
    """Fewer or cheaper steps: the seconds of a picture, and its difference from the full sampler's."""

    def of(device: Device) -> str:
        rows = []
        for group in device.of("quality"):
            for name, row in group.rows.items():
                speedup = times(float(row["speedup"])) if row["speedup"] not in ("", "refused") else ""
                rows.append([f"{group.model}: {name}", amount(group, name), speedup, row["note"] or "-"])
        return markdown(["way", "a picture", "faster than the full sampler", "against its pictures"], rows)

    return per_device(of, known)


def rooflines(known: Sequence[Device]) -> str:
    """The share of each op in a step's time, and how near it comes to the device's measured limits."""

    def of(device: Device) -> str:
        rows = []
        for title, items in profiles(device).items():
            step = float(items[0]["step_seconds"])
            least = sum(float(item["least_seconds"]) for item in items)
            ops = sorted({item["op"] for item in items}, key=lambda op: -spent(items, op))
            # Not the file's shares: those of earlier files are of the step under the profiler, which slows a CPU.
            parts = sum(spent(items, op) for op in ops)
            whole = max(step, parts)
            cells = [
                f"{op} {spent(items, op) / whole:.0%} at {spent(items, op, 'least_seconds') / max(spent(items, op), 1e-12):.0%}"
                for op in ops
            ]
            cells.append(f"everything else {1 - parts / whole:.0%}")
            rows.append(
                [title.split(" on ")[0], quantity(step, "s"), f"{least / step:.0%}", ", ".join(cells)]
            )
        return markdown(
            ["step", "takes", "of the ceilings", "share of the time, at how much of its ceiling"], rows
        )

    return per_device(of, known)


def profiles(device: Device) -> dict[str, list[Row]]:
    """The rows of profiles, by the step that was profiled."""
    found: dict[str, list[Row]] = {}
    for rows in device.others.values():
        for row in rows:
            if "of_ceiling" in row:
                found.setdefault(row["model"], []).append(row)
    return found


def spent(items: Sequence[Row], op: str, column: str = "seconds") -> float:
    """The sum of a column over an op's rows."""
    return sum(float(item[column]) for item in items if item["op"] == op)


def accuracy(known: Sequence[Device]) -> str:
    """Errors of steps and loops against fp32, beside the errors of plain torch in the same type."""

    def of(device: Device) -> str:
        rows = []
        for part in ("step", "loop"):
            for group in device.of(part):
                mine = group.rows.get(OURS)
                theirs = group.rows.get(HALF)
                if mine and mine["error"]:
                    torchs = theirs["error"] if theirs else ""
                    rows.append(
                        [
                            f"{part}: {group.model}, {group.work}",
                            mine["note"].split(", ")[-1],
                            mine["error"],
                            torchs,
                        ]
                    )
        for group in device.of("accuracy"):
            for name, row in group.rows.items():
                owner, dtype = name.split(" ")
                if owner == OURS and row["error"]:
                    torchs = group.rows.get(f"torch {dtype}", {}).get("error", "")
                    rows.append([f"{group.model}, {group.work}", dtype, row["error"], torchs])
        return markdown(["of", "type", "relative error", "torch's own in that type"], rows)

    return per_device(of, known)


class Target(NamedTuple):
    """A number to reach on a GPU or a CPU. ``measured`` returns it; it must be at least ``bound``, or at most with ``below``."""

    what: str
    gpu: bool
    bound: float
    measured: Callable[[Device], float | None]
    unit: str = "x"
    below: bool = False


def step_ratio(model: str, work: str, baseline: str) -> Callable[[Device], float | None]:
    """How many times as long a baseline's step takes."""

    def measured(device: Device) -> float | None:
        both = device.find("step", model, work, OURS, baseline)
        return both.ratio(baseline) if both else None

    return measured


def product_share(title: str) -> Callable[[Device], float | None]:
    """FLOPs of convolutions, attention and projections over the whole step's time, as percent of the best matrix product's."""

    def measured(device: Device) -> float | None:
        items = next((rows for name, rows in profiles(device).items() if name.startswith(title)), None)
        if items is None:
            return None
        # An op bound by matrix products takes at least their FLOPs over the measured peak; for any other op that is less.
        work = [i for i in items if i["op"] in ("convolution", "text_attention", "linear")]
        peak = max((float(i["flops"]) / float(i["least_seconds"]) for i in work), default=0.0)
        return (
            100 * sum(float(i["flops"]) for i in work) / float(items[0]["step_seconds"]) / peak
            if peak
            else None
        )

    return measured


def seconds_until(phase: str) -> Callable[[Device], float | None]:
    """Seconds from the start of a process with the released models to the end of a phase."""

    def measured(device: Device) -> float | None:
        found = device.find("cold-start", "base + upsample", phase, OURS)
        return found.value(OURS) if found else None

    return measured


def memory_share(device: Device) -> float | None:
    """glide_fast's peak memory as percent of that of a plain model in the official style."""
    for group in device.of("memory"):
        others = [name for name in group.rows if name != OURS]
        if group.model == "base + upsample" and others:
            ratio = group.ratio(OURS, others[0])
            return None if ratio is None else 100 * ratio
    return None


TARGETS = (
    Target(
        "base step at 2 over reference eager, text at each step", False, 3.6, step_ratio("base", "2 x", EAGER)
    ),
    Target("base step at 2 over reference eager, text once", False, 2.4, step_ratio("base", "2 x", CACHED)),
    Target("base step at 2 over frozen Inductor", False, 1.0, step_ratio("base", "2 x", FROZEN)),
    Target(
        "upsampler step at 1 over reference eager, text once",
        False,
        2.3,
        step_ratio("upsample", "1 x", CACHED),
    ),
    Target("upsampler step at 1 over frozen Inductor", False, 1.0, step_ratio("upsample", "1 x", FROZEN)),
    Target("ready to sample", False, 15, seconds_until("ready to sample"), " s", below=True),
    Target("peak memory of the official's", False, 60, memory_share, " %", below=True),
    Target("base step at 2 over reference eager", True, 8, step_ratio("base", "2 x", EAGER)),
    Target("base step at 32 over reference eager", True, 2.6, step_ratio("base", "32 x", EAGER)),
    Target("upsampler step at 1 over reference eager", True, 4, step_ratio("upsample", "1 x", EAGER)),
    Target("base step at 2 over torch.compile, strong", True, 1.3, step_ratio("base", "2 x", STRONG)),
    Target("base step at 32 over torch.compile, strong", True, 1.12, step_ratio("base", "32 x", STRONG)),
    Target(
        "convolution and attention FLOPs of the matrix peak, base at 2",
        True,
        30,
        product_share("base, 2 x"),
        " %",
    ),
    Target(
        "convolution and attention FLOPs of the matrix peak, base at 32",
        True,
        60,
        product_share("base, 32 x"),
        " %",
    ),
    Target("cold start to the first picture", True, 20, seconds_until("first picture"), " s", below=True),
)


def targets(known: Sequence[Device]) -> str:
    """Each goal and the measured number, on the first GPU or CPU that has one."""
    rows = []
    for target in TARGETS:
        value = next(
            (v for d in known if d.gpu == target.gpu and (v := target.measured(d)) is not None), None
        )
        bound = f"{'at most' if target.below else 'at least'} {target.bound:g}{target.unit}"
        reached = ""
        if value is not None:
            reached = "yes" if (value <= target.bound if target.below else value >= target.bound) else "no"
        found = UNMEASURED if value is None else f"{value:.3g}{target.unit}"
        rows.append([GPU if target.gpu else "CPU", target.what, bound, found, reached or "-"])
    return markdown(["on", "what", "to reach", "measured", "reached"], rows)


TABLES: dict[str, Callable[[Sequence[Device]], str]] = {
    "speeds": speeds,
    "targets": targets,
    "rooflines": rooflines,
    "ablation": ablation,
    "loops": compared("loop", "a loop"),
    "pipelines": compared("pipeline", "from prompt to picture"),
    "cold-start": compared("cold-start", "since the start of the process"),
    "memory": compared("memory", "peak memory"),
    "quality": quality,
    "accuracy": accuracy,
}


def filled(text: str, known: Sequence[Device]) -> str:
    """``text`` with every marked table filled again; KeyError for a table that is not in :data:`TABLES`."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]](known)}\n{match[3]}"

    return MARK.sub(table, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where ``--check`` finds a file that is not up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__.split(": ", 1)[1]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where something would change"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known, changed = devices(options.results), []
    for name in FILES:
        file = options.root / name
        before = file.read_text(encoding="utf-8")
        after = filled(before, known)
        if after != before:
            changed.append(name)
            if not options.check:
                file.write_text(after, encoding="utf-8")
    verb = "out of date" if options.check else "filled"
    print(f"{verb}: {', '.join(changed)}" if changed else "nothing changes")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
