"""Bad input is refused by name, with what was given and what is accepted, before any network runs or seed is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines import GlidePipeline, Stage


@pytest.fixture
def idle(pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch) -> GlidePipeline:
    """A pipeline whose networks must not run."""

    def run(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a network ran before the input was checked")

    for stage in (pipe.base, pipe.upsampler):
        assert stage is not None
        monkeypatch.setattr(stage.model, "forward", run)
        monkeypatch.setattr(stage.model, "encode_text", run)
    return pipe


class Faulty:
    """Of a class whose repr raises."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


NAN, INFINITY = float("nan"), float("inf")
CALLS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": b"bytes"}, "prompt"),
    ({"prompt": ["fine", None]}, r"prompt\[1\]"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"negative_prompt": []}, "negative_prompt"),
    ({"negative_prompt": 1}, "negative_prompt"),
    ({"negative_prompt": ["a", "b"]}, "negative_prompt"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": -1}, "num_inference_steps"),
    ({"num_inference_steps": 1001}, "num_inference_steps"),
    ({"num_inference_steps": 10.0}, "num_inference_steps"),
    ({"num_inference_steps": True}, "num_inference_steps"),
    ({"num_inference_steps": "10"}, "num_inference_steps"),
    ({"upsample_steps": 0}, "upsample_steps"),
    ({"upsample_steps": 1001}, "upsample_steps"),
    ({"upsample_steps": "fast27"}, "upsample_steps"),
    ({"guidance_scale": -0.1}, "guidance_scale"),
    ({"guidance_scale": NAN}, "guidance_scale"),
    ({"guidance_scale": INFINITY}, "guidance_scale"),
    ({"guidance_scale": "3"}, "guidance_scale"),
    ({"guidance_scale": True}, "guidance_scale"),
    ({"guidance_scale": 1e308}, "guidance_scale"),
    ({"guidance_scale": 10**400}, "guidance_scale"),
    ({"guidance_scale": 10**5000}, "guidance_scale"),
    ({"guidance_scale": Faulty()}, "guidance_scale"),
    ({"clip_guidance_scale": 1e300, "clip": object()}, "clip_guidance_scale"),
    ({"guidance_interval": {0.2, 0.8}}, "guidance_interval"),
    ({"guidance_interval": {0.2: 1, 0.8: 2}}, "guidance_interval"),
    ({"guidance_interval": iter((0.2, 0.8))}, "guidance_interval"),
    ({"guidance_interval": {0: 0.1, 1: 0.5}}, "guidance_interval"),
    ({"guidance_interval": range(10**30)}, "guidance_interval"),
    ({"guidance_interval": "01"}, "guidance_interval"),
    ({"guidance_interval": (0.2, "0.8")}, "guidance_interval"),
    ({"guidance_interval": (False, True)}, "guidance_interval"),
    ({"guidance_interval": (0, 10**400)}, "guidance_interval"),
    ({"guidance_interval": (NAN, 1)}, "guidance_interval"),
    ({"num_inference_steps": 10**5000}, "num_inference_steps"),
    ({"upsample_temp": 1e308}, "upsample_temp"),
    ({"upsample_strength": 10**400}, "upsample_strength"),
    ({"seed": 10**5000}, "seed"),
    ({"cache_interval": 10**5000}, "cache_interval"),
    ({"num_images_per_prompt": 10**5000}, "num_images_per_prompt"),
    ({"prompt": ["a", "b"], "num_images_per_prompt": 50_001}, "prompt"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 1.5}, "num_images_per_prompt"),
    ({"seed": [1, 2]}, "seed"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"generator": 1}, "generator"),
    ({"seed": 1, "generator": torch.Generator()}, "seed"),
    ({"sampler": "euler"}, "sampler"),
    ({"sampler": 1}, "sampler"),
    ({"upsample_sampler": "heun"}, "upsample_sampler"),
    ({"upsample_temp": -1.0}, "upsample_temp"),
    ({"upsample_temp": NAN}, "upsample_temp"),
    ({"upsample_strength": 0}, "upsample_strength"),
    ({"upsample_strength": 1.5}, "upsample_strength"),
    ({"output_type": "jpg"}, "output_type"),
    ({"output_type": None}, "output_type"),
    ({"callback_on_step_end": 3}, "callback_on_step_end"),
    ({"progress": "yes"}, "progress"),
]


@pytest.mark.parametrize(("options", "named"), CALLS)
def test_text_to_image(idle: GlidePipeline, options: dict[str, Any], named: str) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(InvalidInputError, match=rf"^{named}: got .*; accepted: ") as caught:
        idle(**{"prompt": "a dog", **options})
    assert isinstance(caught.value, ValueError)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_message_says_the_limit(idle: GlidePipeline) -> None:
    with pytest.raises(InvalidInputError, match="from 1 to 1000, the steps the base was trained on"):
        idle("a dog", num_inference_steps=2000)


def test_unknown_arguments_are_pythons_error(idle: GlidePipeline) -> None:
    with pytest.raises(TypeError, match="steps"):
        idle("a dog", steps=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="steps"):
        idle.upsample(torch.rand(3, 16, 16), steps=5)  # type: ignore[call-arg]


def test_settings_are_checked_like_arguments(base: Stage) -> None:
    pipe = GlidePipeline(base, settings={"sampler": "best"})
    with pytest.raises(InvalidInputError, match=r"^sampler"):
        pipe("a dog")


PICTURE = torch.rand(3, 32, 32)
HALF = torch.ones(32, 32, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"image": PICTURE}, "keep_mask, repaint_mask: got neither"),
        ({"image": PICTURE, "keep_mask": HALF, "repaint_mask": HALF}, "keep_mask, repaint_mask: got both"),
        ({"image": PICTURE, "keep_mask": HALF[:16, :16]}, "keep_mask: got '16x16 pixels'"),
        ({"image": PICTURE, "repaint_mask": HALF[:16]}, "repaint_mask: got '32x16 pixels'"),
        ({"image": PICTURE, "keep_mask": torch.full((32, 32), 0.5)}, "keep_mask"),
        ({"image": PICTURE, "keep_mask": HALF.expand(3, -1, -1)}, "keep_mask: got '3 masks'"),
        ({"image": PICTURE[:, :16], "keep_mask": HALF[:16]}, "image: got '32x16 pixels'; accepted: a square"),
        ({"image": PICTURE * 255, "keep_mask": HALF}, "image"),
        ({"image": PICTURE * NAN, "keep_mask": HALF}, "image"),
        ({"image": None, "keep_mask": HALF}, "image"),
        ({"image": PICTURE.expand(3, -1, -1, -1), "keep_mask": HALF}, "image: got '3 pictures'"),
        ({"image": PICTURE, "keep_mask": HALF, "num_inference_steps": 0}, "num_inference_steps"),
    ],
)
def test_inpaint(idle: GlidePipeline, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{named}"):
        idle.inpaint(["a dog", "a cat"], **arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"image": PICTURE, "strength": 0.0}, "strength"),
        ({"image": PICTURE, "strength": 1.1}, "strength"),
        ({"image": PICTURE, "strength": -0.5}, "strength"),
        ({"image": PICTURE, "strength": NAN}, "strength"),
        ({"image": PICTURE, "strength": "much"}, "strength"),
        ({"image": PICTURE[:, :16]}, "image"),
        ({"image": "cat.png"}, "image"),
        ({"image": PICTURE, "seed": [1, 2]}, "seed"),
    ],
)
def test_image_to_image(idle: GlidePipeline, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{named}"):
        idle.image_to_image("a dog", **arguments)


@pytest.mark.parametrize("flag", ["no", "False", 0, 1, None, [], torch.tensor(True)])
def test_flags_are_true_or_false(idle: GlidePipeline, tmp_path: Path, flag: Any) -> None:
    """ "no" is no way to say False: every text but the empty one would count as True."""
    for name in ("accelerate", "progress"):
        with pytest.raises(InvalidInputError, match=rf"^{name}: got .*; accepted: True or False"):
            GlidePipeline.from_pretrained(tmp_path / "nothing here", **{name: flag})
    with pytest.raises(InvalidInputError, match=r"^enabled: got .*; accepted: True or False"):
        idle.enable_whole_loop_capture(flag)


def test_half_precision_on_a_cpu(own_base: Stage, settings: dict[str, Any]) -> None:
    pipe = GlidePipeline(own_base, settings=settings)
    with pytest.raises(InvalidInputError, match=r"fp16 on a CPU, .*fp32 or bf16"):
        pipe.to(dtype="fp16")
    assert pipe.dtype == torch.float32
    own_base.model.convert_to_fp16()
    with pytest.raises(InvalidInputError, match="fp16 on a CPU"):
        pipe("a dog")


@pytest.mark.parametrize("dtype", ["int8", torch.float64, 16])
def test_unknown_precision(pipe: GlidePipeline, dtype: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^dtype"):
        pipe.to(dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", 1.5])
def test_unusable_devices(pipe: GlidePipeline, device: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^device"):
        pipe.to(device)


def test_stages_in_each_others_place(base: Stage, upsampler: Stage) -> None:
    with pytest.raises(InvalidInputError, match=r"^base"):
        GlidePipeline(upsampler, upsampler)
    with pytest.raises(InvalidInputError, match=r"^upsampler"):
        GlidePipeline(base, base)
    with pytest.raises(InvalidInputError, match=r"^base"):
        GlidePipeline(None)
    with pytest.raises(InvalidInputError, match=r"^base: got 'Text2ImUNet'; accepted: a Stage"):
        GlidePipeline(base.model)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=r"^model"):
        Stage(torch.nn.Linear(1, 1), {})  # type: ignore[arg-type]
