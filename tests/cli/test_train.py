"""``glide-fast train``: what its options become, and that a run goes on by itself."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from support.png import text_of
from support.tiny import MODEL, write_data_set

from glide_fast.checkpoints import read_directory
from glide_fast.cli.train import train
from glide_fast.errors import InvalidInputError
from glide_fast.models.factory import build
from glide_fast.train import TrainConfig, presets

FEW = ("--batch-size", 4, "--precision", "fp32", "--sample-every", 0, "--device", "cpu")


@pytest.fixture
def set_up(tmp_path: Path) -> Path:
    """A directory with a data set and a model's options."""
    write_data_set(tmp_path / "data")
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    return tmp_path


def config_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "config.json").read_text()))


def test_a_run_trains_and_exports(invoke: Any, set_up: Path) -> None:
    arguments = ("--data", "data", "--model-options", "model.json", "--steps", 3, *FEW)
    result = invoke("train", "--out", "run", *arguments, "--learning-rate", 1e-3, "--compile", "--no-compile")
    assert result.exit_code == 0, result.output
    assert result.stdout == "run/model\n"
    assert "3/3" in result.stderr
    assert read_directory(set_up / "run/model")[0] == "unet"
    wanted = TrainConfig(
        model=MODEL,
        data="data",
        steps=3,
        batch_size=4,
        precision="fp32",
        sample_every=0,
        learning_rate=1e-3,
    )
    assert config_of(set_up / "run") == wanted.to_json()


def test_the_same_command_or_the_directory_alone_goes_on(invoke: Any, set_up: Path) -> None:
    first = (
        "train",
        "--out",
        "run",
        "--data",
        "data",
        "--model-options",
        "model.json",
        "--steps",
        2,
        *FEW,
        "-q",
    )
    assert invoke(*first).exit_code == 0
    config = config_of(set_up / "run")
    for arguments in (first[:-1], ("train", "--out", "run", "--device", "cpu")):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        assert "goes on after step 2 of 2" in result.stderr
    assert config_of(set_up / "run") == config
    result = invoke("train", "--out", "run", "--steps", 5, "--seed", 2, "--device", "cpu")
    assert result.exit_code == 2
    assert (
        "run holds a run with other settings (--steps: 2 there, 5 now; --seed: 0 there, 2 now)"
        in result.stderr
    )
    result = invoke("train", "--out", "run", "--preset", "small-upsample", "--device", "cpu")
    assert result.exit_code == 2
    assert "other settings (--model-options['image_size']: 16 there, 128 now" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--data: got None; accepted: the directory of a data set, to start a run"),
        (("--data", "nowhere"), "--data: got 'nowhere'; accepted: a data set from glide_fast.data.build"),
        (
            ("--data", "data", "--preset", "huge"),
            "--preset: got 'huge'; accepted: one of small, small-upsample, base",
        ),
        (
            ("--data", "data", "--preset", "small", "--model-options", "model.json"),
            "--preset: got --preset and",
        ),
        (
            ("--data", "data", "--model-options", "no.json"),
            "--model-options: got 'no.json'; accepted: a JSON file",
        ),
        (("--data", "data", "--steps", "0"), "--steps: got 0; accepted: an integer of at least 1"),
        (
            ("--data", "data", "--precision", "fp16"),
            "--precision: got 'fp16'; accepted: bf16 or fp32 on a CPU",
        ),
        (("--data", "data", "--device", "abacus"), "--device: got 'abacus'; accepted: a device"),
        (("--data", "data"), "image_size: got 32; accepted: a divisor of the data set's 16 px"),
    ],
)
def test_bad_input_is_refused_before_a_run_is_begun(
    invoke: Any, set_up: Path, arguments: tuple[str, ...], message: str
) -> None:
    device = () if "--device" in arguments else ("--device", "cpu")
    result = invoke("train", "--out", "run", *arguments, *device)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert not (set_up / "run").exists()


def test_there_is_an_option_for_every_setting_with_its_default_shown() -> None:
    parameters = inspect.signature(train, eval_str=True).parameters
    for field in dataclasses.fields(TrainConfig):
        assert parameters[field.name].default is None
        if field.default is dataclasses.MISSING:
            continue
        shown = parameters[field.name].annotation.__metadata__[0].show_default
        if isinstance(field.default, bool):
            assert shown == ("yes" if field.default else "no")
        elif isinstance(field.default, str):
            assert shown == field.default
        else:
            assert float(shown) == field.default


def test_the_small_models_build_and_every_preset_is_complete() -> None:
    for name in presets.MODELS:
        TrainConfig(model=presets.model(name), data="")
    for name in ("small", "small-upsample"):
        model, _ = build(TrainConfig(model=presets.model(name), data="").options() | {"vocab_rows": 8})
        assert sum(parameter.numel() for parameter in model.parameters()) < 8_000_000  # 16 MB in fp16
    with pytest.raises(InvalidInputError, match="preset: got 'tiny'; accepted: one of small"):
        presets.model("tiny")


def test_a_run_is_extended_and_drawn_with(invoke: Any, set_up: Path) -> None:
    few = ("--batch-size", 2, "--precision", "fp32", "--sample-every", 0, "--device", "cpu", "-q")
    begin = ("train", "--out", "run", "--data", "data", "--model-options", "model.json", *few)
    result = invoke(*begin, "--extend-to", 3)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --extend-to: got 3; accepted: a run that was begun")
    assert invoke(*begin, "--steps", 2).exit_code == 0
    result = invoke("train", "--out", "run", "--steps", 3, "--device", "cpu")
    assert result.exit_code == 2
    assert "--steps: 2 there, 3 now" in result.stderr
    assert "--extend-to" in result.stderr
    result = invoke("train", "--out", "run", "--extend-to", 1, "--device", "cpu")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --extend-to: got 1; accepted: at least 2, the steps trained")
    result = invoke("train", "--out", "run", "--steps", 2, "--extend-to", 3, "--device", "cpu")
    assert result.stderr == "error: --extend-to: got --extend-to and --steps; accepted: one of them\n"
    assert invoke("train", "--out", "run", "--extend-to", 3, "--device", "cpu", "-q").exit_code == 0
    assert json.loads((set_up / "run/config.json").read_text())["steps"] == 3
    result = invoke("sample", "a red square", "--model", "run", "--steps", 2, "--device", "cpu", "-q")
    assert result.exit_code == 0, result.output
    assert text_of(set_up / "out.png")["settings"]["training_step"] == 3
