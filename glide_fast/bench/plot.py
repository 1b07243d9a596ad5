"""Results as a picture: a panel for each model, a group of bars for each piece of work, a bar for each contestant.

A bar is a time as a multiple of the first contestant's (the baseline's) in the same comparison, on a logarithmic axis: it hangs
from 1 where the contestant is faster and stands on it where it is slower; the thin line in it is its quartiles. The black mark is
a copy of the bytes that the work must move. A hatched bar computed something wrong.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glide_fast.bench.contest import COPY, OURS
from glide_fast.bench.measurement import quantity
from glide_fast.bench.record import Row
from glide_fast.errors import InvalidInputError, invalid

FORMATS = (".png", ".svg", ".pdf")
GROUP = 0.84  # of the distance between groups, taken by their bars
FEW = 6
"""The most bars in a panel for which each bar has its value written on it."""
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


class Group(NamedTuple):
    """A comparison: its label, the contestant that is the baseline, and the rows that have a value, by contestant."""

    label: str
    baseline: str
    rows: dict[str, Row]

    def ratio(self, name: str, column: str = "value") -> float:
        """A contestant's value over the baseline's median."""
        row = self.rows[name]
        return float(row[column] or row["value"]) / float(self.rows[self.baseline]["value"])


class Panel(NamedTuple):
    """The comparisons of one part and model (and batch, where the work begins with one)."""

    title: str
    groups: list[Group]


def check(file: Path) -> None:
    """Raise InvalidInputError for a file to which a picture cannot be drawn."""
    if file.suffix.lower() not in FORMATS:
        raise invalid("plot", str(file), f"a file ending in {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidInputError("plot: drawing needs matplotlib; accepted: pip install 'glide-fast[bench]'")


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The comparisons in the order of the rows, without rows that have no value and contestants without a competitor."""
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        if row["value"]:
            batch, label = batch_of(row["work"])
            title = f"{row['part']}: {row['model']}" + (f", N = {batch}" if batch else "")
            found.setdefault(title, {}).setdefault(label, {})[row["contestant"]] = row
    made = []
    for title, works in found.items():
        groups = [Group(label, next(iter(of)), of) for label, of in works.items() if len(of) > 1]
        if groups:
            made.append(Panel(title, groups))
    return made


def batch_of(work: str) -> tuple[str, str]:
    """Split the text of a piece of work into its batch, or "", and the rest: "op 2 x 8x8" is ("2", "op 8x8")."""
    match = re.match(r"(\w+ )?(\d+) ?x ?(.+)", work)
    return (match[2], f"{match[1] or ''}{match[3]}") if match else ("", work)


def contestants(made: Sequence[Panel]) -> list[str]:
    """The contestants without the copy, those of glide_fast first."""
    found = dict.fromkeys(name for panel in made for group in panel.groups for name in group.rows)
    return sorted((name for name in found if name != COPY), key=lambda name: not name.startswith(OURS))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each contestant: greens for glide_fast, other colours for the others."""
    ours = [name for name in names if name.startswith(OURS)]
    others = [name for name in names if name not in ours]
    return {name: OURS_COLOURS[i % len(OURS_COLOURS)] for i, name in enumerate(ours)} | {
        name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(others)
    }


def limits(made: Sequence[Panel]) -> tuple[float, float]:
    """The ends of the axis: it holds all medians, with some space around 1; quartiles may lie outside."""
    ratios = [group.ratio(name) for panel in made for group in panel.groups for name in group.rows]
    return min(0.5, *ratios) / 1.3, max(2.0, *ratios) * 1.3


def draw(rows: Sequence[Row], file: Path) -> bool:
    """Write the picture of these rows (:meth:`Measurement.row`); False where there is nothing to compare."""
    made = panels(rows)
    if not made:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(len(panel.groups) for panel in made)
    size = (max(8.0, 2.2 * most), 1.4 + 2.6 * len(made))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(made), 1, squeeze=False, sharey=True)[:, 0]
    for axis, panel in zip(axes, made, strict=True):
        _draw_panel(axis, panel, colours(contestants(made)))
    axes[0].set_ylim(*limits(made))
    handles = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
    )
    figure.suptitle(_title(rows[0]), fontsize="medium")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return True


def _title(row: Row) -> str:
    title = "Multiples of the first contestant; lower is better"
    if not row.get("device"):
        return title
    versions = f"CUDA {row['cuda']}" if row["cuda"] else f"{row['threads']} threads"
    return f"{title}\n{row['device']}, torch {row['torch']}, {versions}, commit {row['commit']}"


def _draw_panel(axis: Any, panel: Panel, colour: dict[str, str]) -> None:
    from matplotlib.ticker import LogLocator

    names = [name for name in colour if any(name in group.rows for group in panel.groups)]
    width = GROUP / len(names)
    for at, group in enumerate(panel.groups):
        for i, name in enumerate(names):
            if name in group.rows:
                few = len(names) * len(panel.groups) <= FEW
                _draw_bar(axis, group, name, at + (i + 0.5) * width - GROUP / 2, width, colour[name], few)
        if COPY in group.rows:
            ends = at - GROUP / 2, at + GROUP / 2
            axis.hlines(group.ratio(COPY), *ends, color="black", linewidth=1.6, label=COPY, zorder=3)
    axis.axhline(1, color="#333333", linewidth=0.9)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}x")
    axis.yaxis.set_minor_formatter("")
    axis.grid(axis="y", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    axis.set_xticks(range(len(panel.groups)), [group.label for group in panel.groups], fontsize="small")
    axis.set_xlim(-0.55, len(panel.groups) - 0.45)
    axis.set_title(panel.title, fontsize="small", loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_bar(
    axis: Any, group: Group, name: str, centre: float, width: float, colour: str, written: bool
) -> None:
    row, ratio = group.rows[name], group.ratio(name)
    wrong = row["gate"] == "red"
    axis.bar(
        centre,
        ratio - 1,
        width * 0.92,
        bottom=1,
        color=colour,
        hatch="///" if wrong else None,
        edgecolor="red" if wrong else colour,
        label=name,
    )
    quartiles = group.ratio(name, "lower"), group.ratio(name, "upper")
    axis.vlines(centre, *quartiles, color="#333333", linewidth=0.8)
    if written:
        top = max(ratio, 1.0, quartiles[1])
        text = quantity(float(row["value"]), row["unit"])
        axis.annotate(
            text, (centre, top), (0, 2), textcoords="offset points", ha="center", fontsize="x-small"
        )
