"""``glide-fast sample``: files, what is in them, and what is refused before any work."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.png import pixels, text_of
from support.tiny import write_pipeline

import glide_fast
from glide_fast.checkpoints import read_pipeline_directory
from glide_fast.pipelines import GlidePipeline
from glide_fast.runtime.precision import fastest_dtype

DTYPE = fastest_dtype(torch.device("cpu"))
OTHER_DTYPE = "fp32" if DTYPE is torch.bfloat16 else "bf16"
SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "dtype": str(DTYPE).removeprefix("torch."),
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "sampler": "ddim",
    "upsample_steps": 2,
    "upsample_sampler": "ddim",
    "upsample_temp": 0.997,
    "upsample_strength": 1.0,
}
"""What the tiny model's own defaults come to."""


def test_one_prompt_makes_the_pipelines_picture_with_how_it_was_made(
    invoke: Any, model: Path, tmp_path: Path
) -> None:
    result = invoke("sample", "a red square", "--model", model, "--seed", 7)
    assert result.exit_code == 0, result.output
    assert result.stdout == "out.png\n"
    assert re.search(
        rf"1 made in .* images/s\); seeds 7; cpu, {SETTINGS['dtype']}, .* GB at the peak", result.stderr
    )
    assert "1.0/1 images" in result.stderr
    wanted = GlidePipeline.from_pretrained(model, device="cpu")("a red square", seed=7, progress=False).images
    assert np.array_equal(pixels(tmp_path / "out.png"), np.asarray(wanted[0]))
    assert text_of(tmp_path / "out.png") == {
        "prompt": "a red square",
        "seed": "7",
        "settings": SETTINGS,
        "version": f"glide_fast {glide_fast.__version__}",
    }
    assert read_pipeline_directory(model).settings["num_inference_steps"] == 4


def test_options_reach_the_pipeline_and_the_metadata(invoke: Any, model: Path, tmp_path: Path) -> None:
    given = {
        "num_inference_steps": 3,
        "upsample_steps": 1,
        "guidance_scale": 1.5,
        "sampler": "ddpm",
        "negative_prompt": "a blue stripe",
    }
    result = invoke(
        *("sample", "a red square", "--model", model, "-o", "x.png", "--seed", 1, "--dtype", "bf16"),
        *("--steps", 3, "--upsample-steps", 1, "--guidance-scale", 1.5, "--sampler", "ddpm"),
        *("--negative-prompt", "a blue stripe", "--device", "cpu", "--quiet"),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == result.stderr == ""
    pipe = GlidePipeline.from_pretrained(model, device="cpu", dtype="bf16")
    wanted = pipe("a red square", seed=1, progress=False, **given).images[0]
    assert np.array_equal(pixels(tmp_path / "x.png"), np.asarray(wanted))
    assert text_of(tmp_path / "x.png")["settings"] == SETTINGS | given | {"dtype": "bfloat16"}


def test_ways_to_be_faster_are_recorded_where_they_were_taken(
    invoke: Any, model: Path, tmp_path: Path
) -> None:
    ways: list[tuple[tuple[object, ...], dict[str, Any], dict[str, Any]]] = [
        (
            ("--guidance-interval", "0.2,0.8"),
            {"guidance_interval": (0.2, 0.8)},
            {"guidance_interval": [0.2, 0.8]},
        ),
        (("--cache-interval", 2), {"cache_interval": 2}, {"cache_interval": 2}),
        (("--no-accelerate",), {}, {"accelerate": False}),
        (("--accelerate", "--cache-interval", 1), {}, {}),
    ]
    for number, (arguments, given, wanted) in enumerate(ways):
        common = ("--model", model, "--seed", 7, "--dtype", "fp32", "--json", "-q", "-o", f"{number}.png")
        result = invoke("sample", "a red square", *common, *arguments)
        assert result.exit_code == 0, result.output
        assert text_of(tmp_path / f"{number}.png")["settings"] == SETTINGS | wanted | {"dtype": "float32"}
        assert json.loads(result.stdout)["settings"] == SETTINGS | wanted | {"dtype": "float32"}
        pipe = GlidePipeline.from_pretrained(
            model, device="cpu", dtype="fp32", accelerate=wanted.get("accelerate", True)
        )
        image = pipe("a red square", seed=7, progress=False, **given).images[0]
        assert np.array_equal(pixels(tmp_path / f"{number}.png"), np.asarray(image))


def test_several_pictures_in_one_file_are_a_grid(invoke: Any, model: Path, tmp_path: Path) -> None:
    result = invoke(
        "sample", "a red square", "a blue stripe", "--num-images", 3, "--model", model, "--seed", 5, "-q"
    )
    assert result.exit_code == 0, result.output
    assert os.listdir(tmp_path) == ["out.png"]
    text = text_of(tmp_path / "out.png")
    assert text["prompts"] == ["a red square"] * 3 + ["a blue stripe"] * 3
    assert text["seeds"] == [5, 6, 7, 8, 9, 10]
    assert text["settings"] == SETTINGS
    grid = pixels(tmp_path / "out.png")
    assert grid.shape == (2 * 34 - 2, 3 * 34 - 2, 3)  # a row for each prompt, two white pixels between
    assert (grid[32:34] == 255).all()
    again = GlidePipeline.from_pretrained(model, device="cpu")("a blue stripe", seed=9, progress=False).images
    difference = grid[34:, 34:66].astype(int) - np.asarray(again[0])
    assert abs(difference).max() <= 1  # another batch rounds differently


def test_no_grid_numbers_the_files(invoke: Any, model: Path, tmp_path: Path) -> None:
    result = invoke("sample", "a red square", "--num-images", 2, "--model", model, "--no-grid", "-o", "a.png")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["a-1.png", "a-2.png"]
    texts = [text_of(tmp_path / name) for name in ("a-1.png", "a-2.png")]
    assert int(texts[1]["seed"]) == int(texts[0]["seed"]) + 1


def test_a_directory_gets_a_file_each_and_a_grid_on_request(invoke: Any, model: Path, tmp_path: Path) -> None:
    result = invoke(
        *("sample", "a red square", "a blue stripe", "a", "--num-images", 1, "--model", model),
        *("-o", "new/pictures", "--grid", "--low-res", "--batch-size", 2, "-q"),
    )
    assert result.exit_code == 0, result.output
    names = ["0001", "0002", "0003", "grid"]
    wanted = {f"{name}{kind}.png" for name in names for kind in ("", ".low-res")}
    assert set(os.listdir(tmp_path / "new/pictures")) == wanted
    assert pixels(tmp_path / "new/pictures/grid.png").shape == (66, 66, 3)
    assert pixels(tmp_path / "new/pictures/0002.low-res.png").shape == (16, 16, 3)
    assert text_of(tmp_path / "new/pictures/0002.low-res.png")["stage"] == "base"
    assert text_of(tmp_path / "new/pictures/0002.low-res.png")["prompt"] == "a blue stripe"


def test_json_says_files_seeds_settings_and_timings(invoke: Any, model: Path) -> None:
    arguments = ("--seed", 3, "--no-grid", "--num-images", 2, "--low-res", "--json")
    result = invoke("sample", "a red square", "--model", model, *arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["images"] == [
        {
            "prompt": "a red square",
            "seed": 2 + number,
            "file": f"out-{number}.png",
            "low_res_file": f"out-{number}.low-res.png",
            "skipped": False,
            "unknown_words": [],
        }
        for number in (1, 2)
    ]
    assert report["settings"] == SETTINGS
    assert report["steps"] == {"base": 4, "upsampler": 2}
    assert report["grid"] is None
    assert report["device"] == "cpu"
    assert report["version"] == glide_fast.__version__
    assert report["seconds"].keys() == {"load", "sample"}
    assert report["images_per_second"] > 0
    assert report["peak_memory"] > 2**20
    assert "images/s" in result.stderr


def test_bar_and_json_count_the_steps_that_the_upsampler_takes(invoke: Any, tmp_path: Path) -> None:
    write_pipeline(tmp_path / "midway")
    file = tmp_path / "midway/pipeline.json"
    content = json.loads(file.read_text())
    content["settings"] |= {"upsample_steps": 7, "upsample_strength": 0.5}
    file.write_text(json.dumps(content))
    result = invoke("sample", "a", "--model", "midway", "--seed", 1, "--json", "--steps", 2)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["steps"] == {"base": 2, "upsampler": 4}
    assert report["settings"]["upsample_steps"] == 7
    assert "upsampler 4/4" in result.stderr
    taken: list[str] = []
    GlidePipeline.from_pretrained("midway", device="cpu")(
        "a",
        seed=1,
        num_inference_steps=2,
        progress=False,
        callback_on_step_end=lambda end: taken.append(end.stage),
    )
    assert {stage: taken.count(stage) for stage in taken} == report["steps"]


def test_prompts_beyond_latin_letters_survive_in_the_metadata(
    invoke: Any, model: Path, tmp_path: Path
) -> None:
    prompt = "ein größerer 🐶, 红色\tround"
    result = invoke("sample", prompt, "--model", model)
    assert result.exit_code == 0, result.output
    assert text_of(tmp_path / "out.png")["prompt"] == prompt


def test_an_empty_prompt_draws_anything(invoke: Any, model: Path, tmp_path: Path) -> None:
    assert invoke("sample", "", "--model", model).exit_code == 0
    assert text_of(tmp_path / "out.png")["prompt"] == ""


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_of_one_line(invoke: Any, model: Path) -> None:
    result = invoke("sample", "a red square " * 9, "--model", model)
    assert result.exit_code == 0
    (said,) = (line for line in result.stderr.splitlines() if "cut off" in line)
    assert re.fullmatch(r"warning: prompt 'a red .* cut off: .*", said)
    quiet = invoke("sample", "a red square " * 9, "--model", model, "-q", "--overwrite")
    assert quiet.exit_code == 0 and not quiet.stderr  # nothing but errors, as its help says


def test_a_file_of_prompts_goes_on_where_it_stopped(invoke: Any, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\ufeffa red square\n\n  a blue stripe \r\na green square\n", encoding="utf-8")
    arguments = ("sample", "--prompts", prompts, "--model", model, "-o", "pictures", "--json", "--grid")
    first = json.loads(invoke(*arguments).stdout)
    assert [image["prompt"] for image in first["images"]] == [
        "a red square",
        "a blue stripe",
        "a green square",
    ]
    files = [tmp_path / image["file"] for image in first["images"]]
    whole = {file: file.read_bytes() for file in files}
    grid = pixels(tmp_path / "pictures/grid.png")
    stamp = files[0].stat().st_mtime_ns
    files[1].unlink()
    (tmp_path / "pictures/grid.png").unlink()
    seed = str(first["images"][0]["seed"])
    again = invoke(*arguments, "--seed", seed)
    assert again.exit_code == 0, again.output
    second = json.loads(again.stdout)
    assert [image["skipped"] for image in second["images"]] == [True, False, True]
    assert [image["seed"] for image in second["images"]] == [image["seed"] for image in first["images"]]
    assert files[0].stat().st_mtime_ns == stamp
    assert abs(pixels(files[1]).astype(int) - grid[:32, 34:66]).max() <= 1
    assert np.array_equal(pixels(tmp_path / "pictures/grid.png")[:32, :32], grid[:32, :32])
    third = json.loads(invoke(*arguments).stdout)  # no seed: those of the files will do
    assert all(image["skipped"] for image in third["images"])
    assert third["images_per_second"] is None
    assert {file for file in files if file.read_bytes() == whole[file]} >= {files[0], files[2]}


def test_pictures_of_other_settings_are_not_taken_for_these(invoke: Any, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\na blue stripe\n")
    arguments = ("sample", "--prompts", prompts, "--model", model, "-o", "pictures", "-q", "--seed", 1)
    assert invoke(*arguments).exit_code == 0
    before = (tmp_path / "pictures/0001.png").read_bytes()
    for change, named in (
        (("--steps", 2), "settings"),
        (("--seed", 2), "seed"),
        (("--negative-prompt", "x"), "settings"),
        (("--dtype", OTHER_DTYPE), "settings"),
        (("--no-accelerate", "--dtype", str(DTYPE).removeprefix("torch.")), "settings"),
        (("--guidance-interval", "0,0.5"), "settings"),
        (("--cache-interval", 3), "settings"),
    ):
        result = invoke(*arguments, *change)
        assert result.exit_code == 2
        assert re.match(
            rf"error: --output: pictures/0001.png was made differently \({named}: ", result.stderr
        )
    prompts.write_text("a red square\na green stripe\n")
    result = invoke(*arguments)
    assert "0002.png was made differently (prompt: 'a blue stripe' there" in result.stderr
    assert (tmp_path / "pictures/0001.png").read_bytes() == before
    assert invoke(*arguments, "--overwrite").exit_code == 0
    assert text_of(tmp_path / "pictures/0002.png")["prompt"] == "a green stripe"


def test_a_foreign_picture_in_the_way_is_not_replaced(invoke: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\n")
    (tmp_path / "pictures").mkdir()
    foreign = tmp_path / "pictures/0001.png"
    for content in (b"not a picture", None):
        if content is None:
            Image.new("RGB", (4, 4)).save(foreign)
        else:
            foreign.write_bytes(content)
        before = foreign.read_bytes()
        result = invoke("sample", "--prompts", "prompts.txt", "--model", model, "-o", "pictures")
        assert result.exit_code == 2
        assert "0001.png was made differently (prompt: None there" in result.stderr
        assert foreign.read_bytes() == before


def test_a_kill_between_a_picture_and_its_low_resolution_is_made_good(
    invoke: Any, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\n")
    arguments = ("sample", "--prompts", "prompts.txt", "--model", model, "-o", "pictures", "--low-res")
    assert invoke(*arguments).exit_code == 0
    picture, small = tmp_path / "pictures/0001.png", tmp_path / "pictures/0001.low-res.png"
    before = picture.read_bytes(), small.read_bytes()
    small.unlink()
    assert invoke(*arguments).exit_code == 0
    assert (picture.read_bytes(), small.read_bytes()) == before
    picture.unlink()
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "0001.low-res.png exists" in result.stderr


def test_nothing_is_overwritten_unless_asked(invoke: Any, model: Path, tmp_path: Path) -> None:
    taken = tmp_path / "out.png"
    taken.write_bytes(b"precious")
    result = invoke("sample", "a red square", "--model", "no such model")  # refused before it is looked for
    assert result.exit_code == 2
    assert result.stderr == "error: --output: out.png exists; accepted: another name, or --overwrite\n"
    (tmp_path / "new.low-res.png").write_bytes(b"precious")
    result = invoke("sample", "a red square", "--model", model, "-o", "new.png", "--low-res")
    assert "new.low-res.png exists" in result.stderr
    assert not (tmp_path / "new.png").exists()
    assert taken.read_bytes() == b"precious"
    assert invoke("sample", "a red square", "--model", model, "--overwrite").exit_code == 0
    assert text_of(taken)["prompt"] == "a red square"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "PROMPT: got neither PROMPT nor --prompts; accepted: one or more prompts"),
        (("a", "--prompts", "list.txt"), "PROMPT: got both PROMPT and --prompts"),
        (
            ("--prompts", "missing.txt", "-o", "d"),
            "--prompts: got 'missing.txt'; accepted: a file with a prompt",
        ),
        (
            ("--prompts", "list.txt", "-o", "a.png"),
            "--output: got 'a.png'; accepted: a directory, with --prompts",
        ),
        (
            ("--prompts", "blank.txt", "-o", "d"),
            "--prompts: got 'blank.txt'; accepted: a file with at least one",
        ),
        (("--prompts", "latin.txt", "-o", "d"), "--prompts: got 'latin.txt'; accepted: UTF-8 text"),
        (("a", "-o", "a.jpg"), "--output: got 'a.jpg'; accepted: a .png file"),
        (("a", "-o", "missing/a.png"), "--output: got 'missing'; accepted: a place in an existing directory"),
        (("a", "-o", "list.txt/d"), "--output: got 'list.txt/d'; accepted: a place in an existing directory"),
        (("a", "--sampler", "heun"), "--sampler: got 'heun'; accepted: "),
        (("a", "--device", "abacus"), "--device: got 'abacus'; accepted: "),
        (("a", "--dtype", "int8"), "--dtype: got 'int8'; accepted: "),
        (("a", "--dtype", "fp16", "--device", "cpu"), "--dtype: got fp16 on a CPU"),
        (("a", "--model", "no-such"), "--model: got 'no-such', which is no directory; accepted: "),
        (("a", "--guidance-scale", "-1"), "--guidance-scale: got -1.0; accepted: "),
        (("a", "--guidance-scale", "nan"), "--guidance-scale: got nan; accepted: "),
        (("a", "--steps", "1001"), "--steps: got 1001; accepted: an integer from 1 to 1000"),
        (("a", "--seed", str(2**63)), "--seed: got 9223372036854775808; accepted: an integer from 0 to "),
        (
            ("a", "--guidance-interval", "0.2"),
            "--guidance-interval: got '0.2'; accepted: two numbers with a comma",
        ),
        (
            ("a", "--guidance-interval", "0.8,0.2"),
            "--guidance-interval: got (0.8, 0.2); accepted: two numbers (low, high)",
        ),
        (
            ("a", "--cache-interval", "2", "--no-accelerate"),
            "--cache-interval: got 2; accepted: 1 with a plain model",
        ),
        (("a", "--clip-guidance-scale", "1"), "--clip-guidance-scale: got 1.0; accepted: 0 without a CLIP"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    invoke: Any, model: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "list.txt").write_text("a red square\n")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes("größer\n".encode("latin-1"))
    before = sorted(os.listdir(tmp_path))
    chosen = () if "--model" in arguments else ("--model", model)
    result = invoke("sample", *arguments, *chosen)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--steps", "0"),
        ("--upsample-steps", "-1"),
        ("--num-images", "0"),
        ("--batch-size", "0"),
        ("--seed", "-1"),
    ],
)
def test_numbers_out_of_range_are_refused(invoke: Any, model: Path, arguments: tuple[str, str]) -> None:
    result = invoke("sample", "a", "--model", model, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_a_one_stage_pipeline_makes_its_own_size_and_has_no_low_resolution(
    invoke: Any, tmp_path: Path
) -> None:
    write_pipeline(tmp_path / "single", upsampler=False)
    assert invoke("sample", "a red square", "--model", "single").exit_code == 0
    assert pixels(tmp_path / "out.png").shape == (16, 16, 3)
    assert text_of(tmp_path / "out.png")["settings"].keys() == {
        *("model", "dtype", "num_inference_steps", "guidance_scale", "sampler")
    }
    result = invoke("sample", "a red square", "--model", "single", "-o", "b.png", "--low-res")
    assert result.exit_code == 2
    assert "--low-res: this pipeline has one stage only" in result.stderr
