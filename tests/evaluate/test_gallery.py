"""The labelled sheet: every picture stands where its caption does, whole."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glide_fast.errors import InvalidInputError
from glide_fast.evaluate.gallery import sheet


def test_every_picture_is_on_the_sheet_with_ink_under_it() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    page = np.asarray(
        sheet([Image.new("RGB", (32, 32), c) for c in colours], ["red", "green", "blue"], columns=2)
    )
    for colour in colours:
        ys, xs = np.nonzero((page == colour).all(-1))
        assert len(ys) == 32 * 32
        below = page[ys.max() + 1 : ys.max() + 16, xs.min() : xs.max()]
        assert (below.sum(-1) < 200).any()


def test_bad_arguments() -> None:
    picture = Image.new("RGB", (8, 8))
    with pytest.raises(InvalidInputError, match="captions"):
        sheet([picture], [], 1)
    with pytest.raises(InvalidInputError, match="columns"):
        sheet([picture], ["x"], 0)
