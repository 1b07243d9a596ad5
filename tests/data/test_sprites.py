"""Sprite files are written, read and pasted exactly; foreign files are refused with a reason."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from glide_fast.data.sprites import Sprites, load_sprites, paste, save_sprites
from glide_fast.errors import InvalidInputError


def _sprites():
    rgba = np.zeros((1, 1, 16, 16, 4), dtype=np.uint8)
    rgba[0, 0, 4:12, 6:10] = (10, 200, 30, 255)
    return Sprites(rgba, ("dot",), ("plain",))


def test_a_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "sprites.npz"
    digest = save_sprites(path, _sprites())
    loaded = load_sprites(path)
    assert np.array_equal(loaded.rgba, _sprites().rgba)
    assert (loaded.nouns, loaded.styles) == (("dot",), ("plain",))
    assert loaded.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["sprites.npz"]


def test_the_same_sprites_make_the_same_file(tmp_path):
    assert save_sprites(tmp_path / "a.npz", _sprites()) == save_sprites(tmp_path / "b.npz", _sprites())


def test_an_image_is_cut_to_a_square_around_what_it_shows():
    image = _sprites().image("dot", "plain")
    assert image.size == (8, 8)
    assert np.asarray(image)[4, 4].tolist() == [10, 200, 30, 255]


def test_pasting_blends_and_clips_at_the_border():
    canvas = np.full((20, 20, 3), 100, dtype=np.float32)
    paste(canvas, _sprites().image("dot", "plain"), -4, 6, 8)
    assert canvas[10, 1].tolist() == [10, 200, 30]
    assert canvas[10, 5].tolist() == [100, 100, 100] and canvas[2, 1].tolist() == [100, 100, 100]
    paste(canvas, _sprites().image("dot", "plain"), 50, 50, 8)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "sprites.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="damaged or not a sprite file"):
        load_sprites(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "sprites.npz"
    with pytest.raises(InvalidInputError, match=r"glide_fast\.data\.fetch"):
        load_sprites(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(InvalidInputError, match="is not a sprite file: it has no rgba, nouns, styles"):
        load_sprites(path)


def test_bad_arrays_and_names_are_refused():
    with pytest.raises(InvalidInputError, match="rgba"):
        Sprites(np.zeros((1, 1, 16, 16, 3), dtype=np.uint8), ("dot",), ("plain",))
    with pytest.raises(InvalidInputError, match="rgba"):
        Sprites(np.zeros((2, 1, 16, 16, 4), dtype=np.uint8), ("dot",), ("plain",))
    with pytest.raises(InvalidInputError, match="noun: got 'dash'"):
        _sprites().image("dash", "plain")
    with pytest.raises(InvalidInputError, match="style: got 'bold'"):
        _sprites().image("dot", "bold")
    empty = Sprites(np.zeros((1, 1, 8, 8, 4), dtype=np.uint8), ("dot",), ("plain",))
    with pytest.raises(InvalidInputError, match="is empty"):
        empty.image("dot", "plain")
