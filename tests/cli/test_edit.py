"""``glide-fast inpaint`` and ``glide-fast upsample``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.png import pixels, text_of

from glide_fast.pipelines import GlidePipeline
from glide_fast.runtime.precision import fastest_dtype


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White on the left half."""
    values = np.zeros((16, 16), np.uint8)
    values[:, :8] = 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize(("white", "kept"), [("keep", np.s_[:, :8]), ("repaint", np.s_[:, 8:])])
def test_inpainting_keeps_what_the_mask_says(
    invoke: Any, model: Path, tmp_path: Path, picture: Path, mask: Path, white: str, kept: Any
) -> None:
    result = invoke(
        *("inpaint", picture, mask, "a red square", "--white", white, "--model", model),
        *("--low-res", "--seed", 4, "-q"),
    )
    assert result.exit_code == 0, result.output
    small = pixels(tmp_path / "out.low-res.png")
    assert np.array_equal(small[kept], pixels(picture)[kept])
    assert not np.array_equal(small, pixels(picture))
    settings = text_of(tmp_path / "out.png")["settings"]
    assert (settings["image"], settings["mask"], settings["white"]) == ("picture.png", "mask.png", white)
    with Image.open(picture) as image, Image.open(mask) as marks:
        masks = {"keep_mask" if white == "keep" else "repaint_mask": marks}
        pipe = GlidePipeline.from_pretrained(model, device="cpu")
        wanted = pipe.inpaint("a red square", image, **masks, seed=4, progress=False).images[0]
    assert np.array_equal(pixels(tmp_path / "out.png"), np.asarray(wanted))


def test_what_white_means_must_be_said(invoke: Any, model: Path, picture: Path, mask: Path) -> None:
    result = invoke("inpaint", picture, mask, "a red square", "--model", model)
    assert result.exit_code == 2
    assert "--white" in result.stderr
    result = invoke("inpaint", picture, mask, "a red square", "--white", "erase", "--model", model)
    assert result.exit_code == 2
    assert "keep" in result.stderr
    assert "repaint" in result.stderr


def test_several_inpaintings_and_upsamplings_are_grids(
    invoke: Any, model: Path, tmp_path: Path, picture: Path, mask: Path
) -> None:
    arguments = ("--num-images", 3, "--batch-size", 2, "--model", model, "--json")
    result = invoke("inpaint", picture, mask, "x", "--white", "keep", "-o", "i.png", *arguments)
    assert [image["prompt"] for image in json.loads(result.stdout)["images"]] == ["x"] * 3
    assert pixels(tmp_path / "i.png").shape == (66, 66, 3)
    assert invoke("upsample", picture, "-o", "u.png", *arguments).exit_code == 0
    assert pixels(tmp_path / "u.png").shape == (66, 66, 3)


def test_upsampling_makes_the_pipelines_picture(
    invoke: Any, model: Path, tmp_path: Path, picture: Path
) -> None:
    result = invoke("upsample", picture, "a red square", "--model", model, "--seed", 2, "--upsample-steps", 3)
    assert result.exit_code == 0, result.output
    assert "upsampler 3/3" in result.stderr
    with Image.open(picture) as image:
        pipe = GlidePipeline.from_pretrained(model, device="cpu")
        wanted = pipe.upsample(image, "a red square", seed=2, upsample_steps=3, progress=False).images[0]
    assert np.array_equal(pixels(tmp_path / "out.png"), np.asarray(wanted))
    assert text_of(tmp_path / "out.png")["settings"] == {
        "model": "tiny",
        "dtype": str(fastest_dtype(torch.device("cpu"))).removeprefix("torch."),
        "image": "picture.png",
        "upsample_steps": 3,
        "upsample_sampler": "ddim",
        "upsample_temp": 0.997,
        "upsample_strength": 1.0,
    }


def test_pictures_of_other_modes_are_read_upright_and_as_rgb(
    invoke: Any, model: Path, tmp_path: Path, picture: Path
) -> None:
    plain = Image.open(picture).convert("RGB")
    plain.convert("RGBA").save(tmp_path / "alpha.png")
    turned = plain.rotate(90)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("picture", "alpha", "turned"):
        arguments = ("--model", model, "--seed", 1, "-q", "-o", f"{name}-out.png")
        result = invoke("upsample", tmp_path / f"{name}.png", "a", *arguments)
        assert result.exit_code == 0, result.output
        assert np.array_equal(pixels(tmp_path / f"{name}-out.png"), pixels(tmp_path / "picture-out.png"))


@pytest.mark.parametrize(
    ("image", "mask_name", "message"),
    [
        ("missing.png", "mask.png", "IMAGE: got '{}missing.png'; accepted: a picture file (No such file"),
        ("text.png", "mask.png", "IMAGE: got '{}text.png'; accepted: a picture file (it is damaged"),
        ("cut.png", "mask.png", "IMAGE: got '{}cut.png'; accepted: a picture file (it is damaged"),
        (
            "glass.png",
            "mask.png",
            "IMAGE: got '{}glass.png, which has transparent pixels'; accepted: an opaque",
        ),
        ("deep.png", "mask.png", "IMAGE: got '{}deep.png, which has more than 8 bits a channel'; accepted: "),
        ("wide.png", "mask.png", "IMAGE: got '24x16 pixels'; accepted: a square picture"),
        ("picture.png", "large.png", "MASK: got '32x32 pixels'; accepted: the size of IMAGE, 16x16"),
        (
            "picture.png",
            "grey.png",
            "MASK: got '{}grey.png, which has grey pixels (such as 100)'; accepted: black",
        ),
        ("picture.png", "text.png", "MASK: got '{}text.png'; accepted: a picture file"),
    ],
)
def test_pictures_that_do_not_do_are_refused(
    invoke: Any,
    model: Path,
    tmp_path: Path,
    picture: Path,
    mask: Path,
    image: str,
    mask_name: str,
    message: str,
) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:200])
    Image.new("RGBA", (16, 16), (0, 0, 0, 100)).save(tmp_path / "glass.png")
    Image.new("I;16", (16, 16), 40_000).save(tmp_path / "deep.png")
    Image.new("RGB", (24, 16)).save(tmp_path / "wide.png")
    Image.new("L", (32, 32)).save(tmp_path / "large.png")
    Image.new("L", (16, 16), 100).save(tmp_path / "grey.png")
    result = invoke(
        "inpaint", tmp_path / image, tmp_path / mask_name, "a", "--white", "keep", "--model", model
    )
    assert result.exit_code == 2
    assert result.stderr.startswith("error: " + message.format(f"{tmp_path}/"))
    assert not (tmp_path / "out.png").exists()


def test_a_picture_of_a_size_the_upsampler_does_not_read_is_refused(
    invoke: Any, model: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (24, 24)).save(tmp_path / "big.png")
    result = invoke("upsample", "big.png", "a", "--model", model, "-q")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: IMAGE: got '24x24 pixels'; accepted: ")
