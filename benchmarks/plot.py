"""``python -m benchmarks.plot [FOLDER ...]``: draw each op's CSV as a PNG beside it; all devices' folders where none is named.

Bars are times as multiples of plain torch's in the same case, on a logarithmic axis: they hang from 1 where a contestant is
faster and stand on it where it is slower, with the quartiles as a thin line. The black mark is a copy of the bytes that the op
must move. A hatched bar computed something wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.case import COPY, OURS, PLAIN
from benchmarks.folders import RESULTS
from benchmarks.record import Row, read

GROUP = 0.84  # of the distance between cases, taken by their bars
OURS_COLOURS = ("#0b6e4f", "#3aa17e", "#7cc6a4", "#b5e0cd")
OTHER_COLOURS = (
    "#8d99ae",
    "#d98e04",
    "#5b7db1",
    "#b56576",
    "#6d597a",
    "#e0b354",
    "#2b2d42",
    "#9a8c98",
    "#c9ada7",
)


class Panel(NamedTuple):
    """The cases of one model at one batch size: their labels, and for each the rows by contestant."""

    title: str
    labels: list[str]
    cases: list[dict[str, Row]]


def panels(table: Sequence[Row]) -> list[Panel]:
    """A table's cases in the order of the file, without those that plain torch did not run."""
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for row in table:
        if not row["median_us"]:
            continue
        batch, rest = batch_of(row["shape"])
        title = f"{row['model']}, N = {batch}" if batch else row["model"]
        found.setdefault(title, {}).setdefault(rest, {})[row["contestant"]] = row
    made = []
    for title, cases in found.items():
        compared = {label: rows for label, rows in cases.items() if PLAIN in rows}
        if compared:
            made.append(Panel(title, list(compared), list(compared.values())))
    return made


def batch_of(shape: str) -> tuple[str, str]:
    """A case's shape as its batch size, where it begins with one, and the rest."""
    match = re.match(r"(\d+)x(.+)", shape)
    return (match[1], match[2]) if match else ("", shape)


def contestants(made: Sequence[Panel]) -> list[str]:
    """All that ran but plain torch and the copy: glide_fast's backends first."""
    names = dict.fromkeys(name for panel in made for case in panel.cases for name in case)
    return sorted(
        (name for name in names if name not in (PLAIN, COPY)), key=lambda name: not name.startswith(OURS)
    )


def colours(names: Sequence[str]) -> dict[str, str]:
    """Greens for glide_fast, others for others."""
    ours = [name for name in names if name.startswith(OURS)]
    others = [name for name in names if name not in ours]
    return {name: OURS_COLOURS[i % len(OURS_COLOURS)] for i, name in enumerate(ours)} | {
        name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)
    }


def relative(case: dict[str, Row], name: str, column: str = "median_us") -> float:
    """A contestant's time over plain torch's median."""
    return float(case[name][column]) / float(case[PLAIN]["median_us"])


def limits(made: Sequence[Panel]) -> tuple[float, float]:
    """The axis' ends: all medians are on it, and room around 1; a quartile may be beyond."""
    ratios = [relative(case, name) for panel in made for case in panel.cases for name in case]
    return min(0.5, *ratios) / 1.2, max(2.0, *ratios) * 1.2


def draw(table: Sequence[Row], file: Path) -> bool:
    """Write the picture of one op's table; False where there is nothing to compare."""
    made = panels(table)
    names = contestants(made)
    if not names:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    most = max(len(panel.cases) for panel in made)
    figure, axes = pyplot.subplots(
        len(made),
        1,
        figsize=(max(8.0, 2.2 * most), 1.4 + 2.6 * len(made)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, panel in zip(axes[:, 0], made, strict=True):
        _draw_panel(axis, panel, colours(names))
    axes[0, 0].set_ylim(*limits(made))
    handles = {
        label: handle
        for axis in axes[:, 0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
    )
    row = made[0].cases[0][PLAIN]
    versions = f"torch {row['torch']}" + (
        f", CUDA {row['cuda']}" if row["cuda"] else f", {row['threads']} threads"
    )
    title = f"{row['op']} {row['dtype']}: time over plain torch's, lower is better"
    figure.suptitle(f"{title}\n{row['device']}, {versions}, commit {row['commit']}", fontsize="medium")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return True


def _draw_panel(axis: Any, panel: Panel, colour: dict[str, str]) -> None:
    from matplotlib.ticker import LogLocator

    names = [name for name in colour if any(name in case for case in panel.cases)]
    width = GROUP / len(names)
    for i, name in enumerate(names):
        for place, case in enumerate(panel.cases):
            if name not in case:
                continue
            ratio, centre = relative(case, name), place + (i + 0.5) * width - GROUP / 2
            wrong = case[name]["gate"] == "red"
            axis.bar(
                centre,
                ratio - 1,
                width * 0.92,
                bottom=1,
                color=colour[name],
                hatch="///" if wrong else None,
                edgecolor="red" if wrong else colour[name],
                label=name,
            )
            axis.vlines(
                centre,
                relative(case, name, "q1_us"),
                relative(case, name, "q3_us"),
                color="#333333",
                linewidth=0.8,
            )
    for place, case in enumerate(panel.cases):
        if COPY in case:
            level = relative(case, COPY)
            axis.hlines(
                level,
                place - GROUP / 2,
                place + GROUP / 2,
                color="black",
                linewidth=1.6,
                label=COPY,
                zorder=3,
            )
    axis.axhline(1, color="#333333", linewidth=0.9)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}x")
    axis.yaxis.set_minor_formatter("")
    axis.grid(axis="y", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.set_xticks(range(len(panel.labels)), panel.labels, fontsize="small")
    axis.set_xlim(-0.55, len(panel.labels) - 0.45)
    axis.set_title(panel.title, fontsize="small", loc="left")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where a named folder holds nothing to draw, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description=__doc__.split(":")[1].strip()
    )
    parser.add_argument(
        "folder", type=Path, nargs="*", help="with an op's CSV files; every device's otherwise"
    )
    folders = parser.parse_args(arguments).folder
    status = 0
    for folder in folders or sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        drawn = 0
        for file in sorted(folder.glob("*.csv")):
            table = read(file)
            if (
                table
                and {"contestant", "median_us", "shape"} <= table[0].keys()
                and draw(table, file.with_suffix(".png"))
            ):
                print(file.with_suffix(".png"))
                drawn += 1
        if folders and not drawn:
            print(f"{folder}: nothing to draw", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
