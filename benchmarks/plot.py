"""``python -m benchmarks.plot [FOLDER ...]``: draw each CSV as a PNG beside it, and an op's rows as one picture an op.

All devices' folders where none is named. What a picture shows: :mod:`glide_fast.bench.plot`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.folders import RESULTS
from glide_fast.bench.plot import draw
from glide_fast.bench.record import Row, read


def pictures(file: Path) -> dict[str, list[Row]]:
    """The rows of a file by the name of the picture that shows them; none if the file has no contestants."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in read(file):
        if {"part", "work", "contestant", "value"} <= row.keys():
            found[row["work"].split(" ")[0] if row["part"] == "ops" else file.stem].append(row)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 where a named folder holds nothing to draw, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description=__doc__.split(":")[1].strip()
    )
    parser.add_argument("folder", type=Path, nargs="*", help="with CSV files; every device's otherwise")
    folders = parser.parse_args(arguments).folder
    status = 0
    for folder in folders or sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        drawn = 0
        for file in sorted(folder.glob("*.csv")):
            for name, rows in pictures(file).items():
                picture = folder / f"{name}.png"
                if draw(rows, picture):
                    print(picture)
                    drawn += 1
        if folders and not drawn:
            print(f"{folder}: nothing to draw", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
