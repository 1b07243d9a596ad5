"""Shapes are drawn where asked, antialiased, and in colours that stay what they are called."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.data.dataset import area_mean
from glide_fast.data.shapes import draw_solid, extent
from glide_fast.data.vocabulary import BACKGROUNDS, COLOURS, SHAPES
from glide_fast.errors import InvalidInputError


def _drawn(shape, colour=(0, 0, 0), ground=(255, 255, 255), centre=(64.0, 64.0), size=70.0, turn=0.0):
    canvas = np.empty((128, 128, 3), dtype=np.float32)
    canvas[...] = ground
    draw_solid(canvas, shape, colour, centre, size, turn)
    return canvas


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_extent(shape):
    picture = _drawn(shape, colour=(200, 0, 0))
    y, x = np.nonzero((picture != 255).any(axis=2))
    left, top, right, bottom = (64 + 70 * edge for edge in extent(shape))
    assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == pytest.approx([left, top, right, bottom], abs=1.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_keep_their_names_at_32_px(shape, colour):
    for ground in BACKGROUNDS.values():
        canvas = _drawn(shape, COLOURS[colour], ground)
        picture = area_mean(np.clip(canvas + 0.5, 0, 255).astype(np.uint8), 4).astype(float)
        covered = area_mean(_drawn(shape, (0, 0, 0), (255, 255, 255)).clip(0, 255).astype(np.uint8), 4)
        mean = picture[covered.max(axis=2) < 100].mean(axis=0)
        distances = {name: np.linalg.norm(mean - np.array(rgb)) for name, rgb in COLOURS.items()}
        assert min(distances, key=distances.__getitem__) == colour


def test_shapes_differ_from_each_other():
    pictures = [_drawn(shape, (200, 60, 60)) for shape in SHAPES]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert (np.abs(first - second).max(axis=2) > 40).mean() > 0.02


def test_edges_are_antialiased_and_match_the_area():
    picture = _drawn("sphere", size=80.0)
    covered = 1 - _drawn("ring", size=80.0)[..., 0] / 255
    assert len(np.unique(covered)) > 8
    assert covered.sum() == pytest.approx(np.pi * 40**2 * (1 - (0.27 / 0.5) ** 2), rel=0.01)
    assert picture[64, 5, 0] == 255


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.floats(-40, 168),
    st.floats(-40, 168),
    st.floats(1, 200),
    st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]),
)
def test_any_place_and_size_draws_without_error(shape, x, y, size, turn):
    picture = _drawn(shape, (250, 120, 30), (10, 20, 30), (x, y), size, turn)
    # Up to three faces meet in a picture element, each share rounded to a byte.
    assert np.isfinite(picture).all() and picture.min() >= -1.5 and picture.max() <= 256.5


def test_bad_arguments_are_named():
    with pytest.raises(InvalidInputError, match="shape: got 'blob'"):
        _drawn("blob")
    with pytest.raises(InvalidInputError, match="size: got 0"):
        _drawn("cube", size=0)
