"""Pictures of the API in files: what the command line writes, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from support.tiny import write_pipeline
from typer.testing import CliRunner

from glide_fast.cli import app
from glide_fast.errors import InvalidInputError
from glide_fast.pipelines import GlidePipeline
from glide_fast.png import read_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(model: Path) -> GlidePipeline:
    return GlidePipeline.from_pretrained(model, device="cpu", dtype="fp32")


def command(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("output_type", ["pil", "pt", "np"])
def test_the_command_lines_files(
    model: Path, loaded: GlidePipeline, tmp_path: Path, output_type: str
) -> None:
    command(
        *(
            "sample",
            "a red square",
            "-o",
            tmp_path / "cli.png",
            "--model",
            model,
            "--seed",
            4,
            "--dtype",
            "fp32",
        ),
        *("--negative-prompt", "a dog", "--guidance-interval", "0.2,0.8", "--low-res", "--device", "cpu"),
        *("--cache-interval", 2, "--json", "-q"),
    )
    options: dict[str, Any] = {
        "guidance_interval": (0.2, 0.8),
        "cache_interval": 2,
        "negative_prompt": "a dog",
    }
    out = loaded("a red square", seed=4, output_type=output_type, progress=False, **options)
    assert out.save(tmp_path / "api.png", low_res=True) == [tmp_path / "api.png"]
    for mine, theirs in (("api.png", "cli.png"), ("api.low-res.png", "cli.low-res.png")):
        assert (tmp_path / mine).read_bytes() == (tmp_path / theirs).read_bytes()
    assert json.loads(read_text(tmp_path / "api.png")["settings"])["model"] == "tiny"


def test_upsampling_alone(model: Path, loaded: GlidePipeline, tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    picture.save(tmp_path / "in.png")
    common = ("--model", model, "--seed", 4, "--dtype", "fp32", "--json", "-q")
    command("upsample", tmp_path / "in.png", "a star", "-o", tmp_path / "cli.png", *common)
    loaded.upsample(picture, "a star", seed=4, progress=False).save(tmp_path / "api.png")
    mine, theirs = read_text(tmp_path / "api.png"), read_text(tmp_path / "cli.png")
    assert json.loads(theirs.pop("settings")) == json.loads(mine.pop("settings")) | {"image": "in.png"}
    assert mine == theirs


def test_each_picture_says_its_own_and_what_made_it(loaded: GlidePipeline, tmp_path: Path) -> None:
    picture = PIL.Image.new("RGB", (16, 16))
    out = loaded.image_to_image(
        ["a", "b"], picture, 0.5, negative_prompt=["x", ""], seed=[9, 3], progress=False
    )
    out.save(str(tmp_path / "{seed}.png"))
    for prompt, seed, negative in (("a", 9, "x"), ("b", 3, "")):
        text = read_text(tmp_path / f"{seed}.png")
        assert (text["prompt"], text["seed"]) == (prompt, str(seed))
        settings = json.loads(text["settings"])
        assert settings["negative_prompt"] == negative
        assert settings["strength"] == 0.5
    assert out.save(tmp_path / "of two.png") == [tmp_path / "of two-1.png", tmp_path / "of two-2.png"]
    assert out.save(tmp_path / "{index:03d}.png")[1] == tmp_path / "002.png"
    assert out.save(tmp_path / "{index}.png") == [tmp_path / "1.png", tmp_path / "2.png"]
    assert read_text(tmp_path / "2.png") == read_text(tmp_path / "3.png")


def test_a_plain_pipeline_of_no_name(pipe: GlidePipeline, tmp_path: Path) -> None:
    pipe("a", seed=1, num_inference_steps=1, upsample_steps=1, progress=False).save(tmp_path / "x.png")
    settings = json.loads(read_text(tmp_path / "x.png")["settings"])
    assert settings["accelerate"] is False
    assert "model" not in settings


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("x.jpg", r"\.png file"),
        ("nowhere/x.png", "directory that exists"),
        ("{what}.png", r"\{seed\}"),
        ("{.png", r"\{seed\}"),
        ("{}.png", r"\{seed\}"),
        ("{seed.x}.png", r"\{seed\}"),
        ("{seed.__class__}.png", r"\{seed\}"),
        ("{seed!r}.png", r"\{seed\}"),
        ("{seed:>99999999999}.png", r"\{seed\}"),
        ("{seed:{index}}.png", r"\{seed\}"),
        ("{seed:0100d}.png", r"\{seed\}"),
        ("y" * 300 + ".png", "File name too long"),
        ("y" * 300 + "/x.png", "File name too long"),
        ("y" * 251 + ".png", "File name too long"),  # with a number
        ("\udfff\ud800.png", "name of a file"),
        ("x\0.png", "null (byte|character)"),
        (b"x.png", r"\.png file"),
        (None, r"\.png file"),
        ("{seed}.png", "the same seed"),
        ("there.png", r"there-1\.png exists; accepted: another name, or overwrite=True"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    loaded: GlidePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there-1.png").write_text("mine")
    options: dict[str, Any] = {"num_inference_steps": 1, "upsample_steps": 1, "progress": False}
    out = loaded(["a", "b"], seed=[1, 1], **options)
    with pytest.raises(InvalidInputError, match=f"^file.*{says}"):
        out.save(file)
    assert (tmp_path / "there-1.png").read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["there-1.png"]
    assert out.save("there.png", overwrite=True)[0].read_bytes()[:4] == b"\x89PNG"


def test_json_and_bar_agree_on_the_upsamplers_steps(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ``upsample_strength`` takes part of them."""
    from glide_fast.cli import run

    half = tmp_path / "half"
    pipeline = GlidePipeline.from_pretrained(model, device="cpu", dtype="fp32")
    pipeline.settings |= {"upsample_steps": 6, "upsample_strength": 0.5}
    pipeline.save_pretrained(half)
    bars: list[dict[str, int]] = []
    seen: list[tuple[str, int]] = []

    class Bar(run.PictureBar):
        def __init__(self, total: int, stages: Any, enabled: bool) -> None:
            bars.append(dict(stages))
            super().__init__(total, stages, enabled)

        def step(self, end: Any) -> None:
            seen.append((end.stage, end.total))
            super().step(end)

    monkeypatch.setattr(run, "PictureBar", Bar)
    told = command("sample", "a", "-o", tmp_path / "x.png", "--model", half, "--json", "-q", "--seed", 1)
    assert told["steps"] == {"base": 4, "upsampler": 3}
    assert bars == [told["steps"]]
    assert set(seen) == set(told["steps"].items())
    assert told["settings"]["upsample_steps"] == 6


def test_the_low_res_files_names_are_checked_before_any_is_written(
    loaded: GlidePipeline, tmp_path: Path
) -> None:
    out = loaded("a", seed=1, num_inference_steps=1, upsample_steps=1, progress=False)
    longest = tmp_path / ("y" * 251 + ".png")
    with pytest.raises(InvalidInputError, match=r"^file: .*File name too long"):
        out.save(longest, low_res=True)
    assert list(tmp_path.iterdir()) == []
    assert out.save(longest) == [longest]
