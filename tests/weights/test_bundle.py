"""Two trained models in one pipeline directory, and the command that puts them there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny
from typer.testing import CliRunner

from glide_fast.checkpoints import read_pipeline_directory, save_directory
from glide_fast.checkpoints.directory import ModelDirectory
from glide_fast.cli import app
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.models.factory import build
from glide_fast.pipelines import GlidePipeline
from glide_fast.weights.bundle import bundle


def exported(directory: Path, options: dict[str, Any]) -> Path:
    """A model directory as a training run leaves it."""
    options = {k: v for k, v in options.items() if k != "low_res_size"} | {"vocab_rows": 5, "use_fp16": False}
    model, _ = build(options)
    save_directory(directory, "unet", options, model.state_dict())
    return directory


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    return exported(tmp_path / "base", tiny.MODEL), exported(tmp_path / "upsampler", tiny.UPSAMPLER)


def test_the_command_makes_a_pipeline_that_samples_with_its_settings(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    base, upsampler = models
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"num_inference_steps": 2, "upsample_steps": 3}))
    out = tmp_path / "pipeline"
    result = CliRunner().invoke(
        app, ["bundle", str(base), str(out), "--upsampler", str(upsampler), "--settings", str(settings)]
    )
    assert result.exit_code == 0, result.output
    stored = read_pipeline_directory(out).read("base")[2]
    assert stored["input_blocks.0.0.weight"].dtype == torch.float16
    assert stored["token_embedding.index"].dtype == torch.int32
    totals = set()
    pictures = GlidePipeline.from_pretrained(out)(
        "a red square", callback_on_step_end=lambda end: totals.add((end.stage, end.total)), progress=False
    )
    assert totals == {("base", 2), ("upsampler", 3)}
    assert pictures.images[0].size == (16, 16)

    again = CliRunner().invoke(app, ["bundle", str(base), str(out)])
    assert again.exit_code == 2
    assert "--overwrite" in again.output


def test_bad_input_leaves_nothing(models: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "pipeline"
    with pytest.raises(InvalidInputError, match="storage"):
        bundle(models[0], out, storage="int8")
    missing = CliRunner().invoke(app, ["bundle", str(tmp_path / "nothing"), str(out)])
    assert missing.exit_code == 3
    assert not out.exists()


def test_models_in_each_others_place_are_refused_before_any_is_read(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, upsampler = models
    monkeypatch.setattr(ModelDirectory, "read", lambda *_, **__: pytest.fail("weights were read"))
    for first, second, wanted in ((base, base, "true"), (upsampler, None, "false")):
        with pytest.raises(
            CheckpointError, match=rf"config\.json: super_res is not {wanted}, as the component"
        ):
            bundle(first, tmp_path / "out", second)
    assert not (tmp_path / "out").exists()


def test_a_training_run_is_called_that(models: tuple[Path, Path], tmp_path: Path) -> None:
    for number, name in enumerate(("checkpoint.pt", "train.lock")):
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "config.json").write_text("{}")
        (run / name).touch()
        with pytest.raises(CheckpointError, match=rf"run{number} is .* a training run; .*run{number}/model"):
            bundle(run, tmp_path / "out")
