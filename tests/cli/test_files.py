"""Names of files, metadata and grids."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glide_fast import png
from glide_fast.cli.files import lay_out, read_json_object
from glide_fast.cli.pictures import columns_of, make_grid
from glide_fast.errors import GlideFastError, InvalidInputError
from glide_fast.png import low_res_file, read_text, record, write_png

PICTURE = Image.new("RGB", (4, 4), "red")


@given(
    name=st.sampled_from(["out.png", "OUT.PNG", "pictures", "."]),
    prompts=st.integers(1, 12),
    each=st.integers(1, 12),
    grid=st.sampled_from([None, True, False]),
)
def test_every_picture_has_one_place_and_no_two_share_it(
    name: str, prompts: int, each: int, grid: bool | None
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        layout = lay_out(Path(directory, name), prompts, each, grid)
    assert len(layout.pictures) == prompts * each
    files = layout.all(low_res=True)
    assert len(set(files)) == len(files) > 0
    assert sorted(files) == sorted(
        {*layout.all(low_res=False), *map(low_res_file, layout.all(low_res=False))}
    )
    single = [file for file in layout.pictures if file is not None]
    assert len(single) in (0, prompts * each)
    assert single or layout.grid is not None
    if grid is False:
        assert layout.grid is None


@given(prompt=st.text(max_size=60), seed=st.integers(0, 2**63 - 1))
def test_whatever_a_prompt_holds_reads_back_from_the_file(prompt: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "a.png")
        text = record([prompt], [seed], {"guidance_scale": 3.0, "note": prompt})
        write_png(file, PICTURE, text)
        assert read_text(file) == text
    assert (text["prompt"], int(text["seed"])) == (prompt, seed)
    assert json.loads(text["settings"]) == {"guidance_scale": 3.0, "note": prompt}


def test_metadata_that_do_not_read_back_are_an_error_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "read_text", lambda file: {"prompt": "another"})
    with pytest.raises(GlideFastError, match=r"a\.png was not written: its metadata did not read back"):
        write_png(tmp_path / "a.png", PICTURE, {"prompt": "a red square"})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_png_have_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a picture")
    PICTURE.save(tmp_path / "a.jpg")
    PICTURE.save(tmp_path / "plain.png")
    for name in ("text", "a.jpg", "plain.png", "missing"):
        assert read_text(tmp_path / name) == {}


@pytest.mark.parametrize(
    ("prompts", "each", "columns"),
    [(1, 1, 1), (1, 4, 2), (1, 5, 3), (5, 1, 3), (3, 2, 2), (2, 7, 7), (9, 1, 3)],
)
def test_a_grid_has_a_row_a_prompt_or_is_nearly_square(prompts: int, each: int, columns: int) -> None:
    assert columns_of(prompts, each) == columns


def test_a_grid_is_filled_row_by_row_and_up_with_white() -> None:
    colours = ["red", "green", "blue", "black", "yellow"]
    grid = make_grid([Image.new("RGB", (3, 2), colour) for colour in colours], 3)
    assert grid.size == (3 * 5 - 2, 2 * 4 - 2)
    for index, colour in enumerate([*colours, "white"]):
        row, column = divmod(index, 3)
        tile = grid.crop((column * 5, row * 4, column * 5 + 3, row * 4 + 2))
        assert np.array_equal(np.asarray(tile), np.asarray(Image.new("RGB", (3, 2), colour)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it is a named pipe"),
        ('{"a": 1, "a": 2}', "the name 'a' occurs twice"),
        ('{"a": NaN}', "NaN is no JSON value"),
        ("[" * 100_000, "nested more than 32 deep"),
        (" " * 1_000_001, "it has more than 1,000,000 bytes"),
    ],
)
def test_json_files_that_are_none(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "options.json"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_text(content)
    with pytest.raises(
        InvalidInputError, match=rf"options: got .*options\.json'; accepted: a JSON file \(.*{said}"
    ):
        read_json_object(file, "options")
