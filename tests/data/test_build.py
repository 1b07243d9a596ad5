"""A built data set is complete or absent, and a killed build ends with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from glide_fast.data import SceneConfig, SceneDataset, draw
from glide_fast.data import build as build_module
from glide_fast.data.build import CHUNK, Plan, build
from glide_fast.errors import InvalidInputError

CONFIG = SceneConfig(emoji=0)
COUNT = 2 * CHUNK + 40


def _plan(**changes):
    settings = {
        "count": COUNT,
        "split": "train",
        "size": 32,
        "first_seed": 7,
        "config": CONFIG,
        "sprites": None,
    }
    return Plan(**{**settings, **changes})


def _bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return build(_plan(), tmp_path_factory.mktemp("data") / "set", progress=False)


def test_a_data_set_holds_the_scenes_of_its_seeds(undisturbed):
    dataset = SceneDataset(undisturbed)
    assert len(dataset) == COUNT and dataset.images.shape == (COUNT, 32, 32, 3)
    for i in (0, CHUNK - 1, CHUNK, COUNT - 1):
        picture, caption, attributes = draw(7 + i, CONFIG, size=32)
        assert np.array_equal(dataset[i][0], picture) and dataset[i][1] == caption
        assert dataset.records[i] == {"seed": 7 + i, "caption": caption, "attributes": attributes}
    assert dataset.meta["count"] == COUNT and dataset.meta["split"] == "train"
    assert not any(record["attributes"]["held_out"] for record in dataset.records)
    dataset[0][0][...] = 0  # a copy: the file must not feel it
    assert np.array_equal(SceneDataset(undisturbed)[0][0], draw(7, CONFIG, size=32)[0])


def test_the_held_out_split_holds_only_held_out_scenes(tmp_path):
    dataset = SceneDataset(build(_plan(split="heldout", count=30), tmp_path / "set", progress=False))
    assert all(record["attributes"]["held_out"] for record in dataset.records)


@pytest.mark.parametrize("when", [0, 1, 2])
@pytest.mark.parametrize("torn", [b"", b'{"seed": 1', b'{"seed": 1}\n{"se'])
def test_a_build_that_fails_in_a_chunk_goes_on_to_the_same_bytes(
    undisturbed, tmp_path, monkeypatch, when, torn
):
    real = build_module._render_chunk

    def failing(plan, path, chunk):
        if chunk == when:
            # What a kill leaves: pictures of the chunk half written, captions cut in a line.
            with path.open("r+b") as file:
                file.seek(1000 + chunk * CHUNK * 32 * 32 * 3)
                file.write(b"garbage")
            raise KeyboardInterrupt
        return real(plan, path, chunk)

    monkeypatch.setattr(build_module, "_render_chunk", failing)
    with pytest.raises(KeyboardInterrupt):
        build(_plan(), tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()
    with (tmp_path / "set.partial" / "captions.jsonl").open("ab") as file:
        file.write(torn)
    monkeypatch.setattr(build_module, "_render_chunk", real)
    build(_plan(), tmp_path / "set", progress=False)
    assert _bytes(tmp_path / "set") == _bytes(undisturbed)
    assert not (tmp_path / "set.partial").exists()


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path):
    def command(out):
        options = ["--count", "3000", "--size", "64", "--workers", "1", "--out", str(out)]
        return [sys.executable, "-m", "glide_fast.data.build", *options]

    process = subprocess.Popen(
        command(tmp_path / "set"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    captions = tmp_path / "set.partial" / "captions.jsonl"
    while process.poll() is None and not (captions.exists() and captions.stat().st_size):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    subprocess.run(command(tmp_path / "set"), check=True, capture_output=True)
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    assert _bytes(tmp_path / "set") == _bytes(tmp_path / "whole")


def test_several_workers_write_what_one_does(undisturbed, tmp_path):
    build(_plan(), tmp_path / "set", workers=2, progress=False)
    assert _bytes(tmp_path / "set") == _bytes(undisturbed)


def test_other_settings_do_not_continue_a_begun_build(tmp_path, monkeypatch):
    def stop(plan, path, chunk):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, "_render_chunk", stop)
        build(_plan(), tmp_path / "set", progress=False)
    with pytest.raises(InvalidInputError, match="other settings \\(first_seed\\)"):
        build(_plan(first_seed=8), tmp_path / "set", progress=False)


def test_nothing_is_built_over_an_existing_folder(undisturbed):
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        build(_plan(), undisturbed, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count: got 0"),
        ({"split": "test"}, "split: got 'test'"),
        ({"size": 8}, "size: got 8"),
        ({"first_seed": -1}, "first_seed: got -1"),
        ({"config": SceneConfig()}, "sprites: got None"),
    ],
)
def test_bad_plans_are_named(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        _plan(**changes)


def test_a_folder_that_is_no_data_set_is_refused(undisturbed, tmp_path):
    with pytest.raises(InvalidInputError, match=r"no meta\.json"):
        SceneDataset(tmp_path)
    for name, content in _bytes(undisturbed).items():
        (tmp_path / name).write_bytes(content)
    lines = (tmp_path / "captions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "captions.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InvalidInputError, match=f"{COUNT} pictures but {COUNT - 1} captions"):
        SceneDataset(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InvalidInputError, match="'other'"):
        SceneDataset(tmp_path)


def test_the_command_names_a_bad_option():
    result = subprocess.run(
        [sys.executable, "-m", "glide_fast.data.build", "--out", "x", "--count", "0"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "count: got 0" in result.stderr
