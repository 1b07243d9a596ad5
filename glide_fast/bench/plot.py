"""Measurements as a picture: one panel a comparison, one bar a contestant."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from glide_fast.bench.measurement import Measurement, quantity
from glide_fast.errors import InvalidInputError, invalid

FORMATS = (".png", ".svg", ".pdf")
_OURS, _OTHERS = "#c8502a", "#8a94a0"


def check(file: Path) -> None:
    """Raise InvalidInputError where a picture could not be drawn to this file."""
    if file.suffix.lower() not in FORMATS:
        raise invalid("plot", str(file), f"a file ending in {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidInputError("plot: drawing needs matplotlib; accepted: pip install 'glide-fast[bench]'")


def draw(measurements: Sequence[Measurement], file: Path) -> None:
    """Draw all that have a value; bars are medians, whiskers quartiles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = [m for m in measurements if m.value is not None]
    panels = [list(group) for _, group in groupby(present, lambda m: (m.part, m.model, m.work, m.unit))]
    if not panels:
        return
    figure = Figure(figsize=(9, sum(0.7 + 0.3 * len(panel) for panel in panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(panels), squeeze=False, gridspec_kw={"height_ratios": [1 + len(p) for p in panels]}
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        values = [float(m.value or 0.0) for m in panel]
        colours = [_OURS if m.contestant.startswith("glide_fast") else _OTHERS for m in panel]
        axis.barh(range(len(panel)), values, color=colours, height=0.7)
        for place, (m, value) in enumerate(zip(panel, values, strict=True)):
            if m.lower is not None and m.upper is not None:
                axis.hlines(place, m.lower, m.upper, color="black", linewidth=1)
            speed = "" if m.speedup is None or m.gate == "red" else f", {m.speedup:.2f}x"
            axis.annotate(
                f" {quantity(value, m.unit)}{speed}",
                (max(value, m.upper or 0.0), place),
                va="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(panel)), [m.contestant for m in panel], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.set_xlim(left=0)
        axis.set_title(f"{panel[0].part}: {panel[0].model}, {panel[0].work}", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
        axis.set_xlabel({"s": "seconds"}.get(panel[0].unit, panel[0].unit), fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
