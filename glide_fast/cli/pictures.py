"""Grids of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2  # pixels between the pictures of a grid


def columns_of(prompts: int, each: int) -> int:
    """Columns of a grid: a row for each prompt if there are several pictures of each of several prompts; else nearly a square."""
    return each if prompts > 1 and each > 1 else math.ceil(math.sqrt(prompts * each))


def make_grid(pictures: Sequence[Image], columns: int) -> Image:
    """A grid of pictures of one size, row by row, on white."""
    from PIL import Image

    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    size = columns * (width + GAP) - GAP, rows * (height + GAP) - GAP
    grid = Image.new("RGB", size, "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        grid.paste(picture, (column * (width + GAP), row * (height + GAP)))
    return grid
