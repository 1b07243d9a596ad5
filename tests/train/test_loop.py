"""The arithmetic of training, and that a tiny run learns and exports what can be loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.tiny import MODEL, UPSAMPLER, train_config
from torch import nn

from glide_fast.checkpoints import load_into, read_directory
from glide_fast.errors import InvalidInputError
from glide_fast.models.factory import build, create_gaussian_diffusion
from glide_fast.text.gpt2 import get_encoder
from glide_fast.train import Trainer
from glide_fast.train.average import WeightAverage
from glide_fast.train.batches import caption_tokens, used_tokens
from glide_fast.train.loop import learning_rate, loss_weights


def test_the_learning_rate_rises_stays_and_falls_to_zero(tmp_path: Path) -> None:
    config = train_config(tmp_path, steps=100, warmup_steps=10, decay_fraction=0.3, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[9:71] == pytest.approx([1.0] * 62)
    assert rates[70:] == pytest.approx([(100 - step) / 30 for step in range(70, 101)])
    assert rates[100] == 0


def test_the_learning_rate_without_warm_up_and_fall_is_constant(tmp_path: Path) -> None:
    config = train_config(tmp_path, steps=20, warmup_steps=0, decay_fraction=0.0, learning_rate=0.5)
    assert {learning_rate(config, step) for step in range(20)} == {0.5}


def test_eps_weights_are_one_and_v_weights_one_plus_inverse_snr(tmp_path: Path) -> None:
    diffusion = create_gaussian_diffusion(1000, "squaredcos_cap_v2", "")
    t = torch.tensor([0, 10, 400, 999])
    assert loss_weights(train_config(tmp_path, weighting="eps"), diffusion, t).tolist() == [1] * 4
    weights = loss_weights(train_config(tmp_path, weighting="v", max_weight=20.0), diffusion, t)
    snr = torch.from_numpy(diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod))[t]
    torch.testing.assert_close(weights, (1 + 1 / snr).clamp(max=20).float())
    assert weights[-1] == 20
    assert weights.dtype == torch.float32


def test_the_average_follows_with_a_decay_that_rises_to_its_limit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.4)
    wanted = copy.deepcopy(model).double()
    for step in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model[1].running_mean += 1
        average.update(model, step)
        decay = min(0.4, (1 + step) / (10 + step))
        for kept, current in zip(wanted.parameters(), model.parameters(), strict=True):
            kept.data = decay * kept.data + (1 - decay) * current.data.double()
    for kept, mean in zip(wanted.parameters(), average.model.parameters(), strict=True):
        torch.testing.assert_close(mean.double(), kept.data, rtol=1e-6, atol=1e-6)
        assert not mean.requires_grad
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)
    assert not average.model.training


def test_fp16_on_a_cpu_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="precision: got 'fp16'; accepted: bf16 or fp32 on a CPU"):
        Trainer(train_config(data, precision="fp16"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_data_set_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a data set from glide_fast\.data\.build"):
        Trainer(train_config(tmp_path / "nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_runs_place_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"directory: got .*run'; accepted: a directory"):
        Trainer(train_config(data), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    model = MODEL | {"dropout": 0.0}
    config = train_config(
        data, model=model, steps=50, save_every=50, batch_size=8, learning_rate=4e-3, weighting="eps"
    )
    trainer = Trainer(config, tmp_path / "run")

    def mean_loss() -> float:
        trainer.model.eval()
        with torch.no_grad():
            values = [trainer.losses(trainer.batches[step])["mse"].mean() for step in range(1000, 1006)]
        trainer.model.train()
        return float(torch.stack(values).mean())

    before = mean_loss()
    assert before == pytest.approx(1.0, abs=0.1)  # a fresh network predicts zero for noise of variance one
    trainer.run(progress=False)
    assert mean_loss() < 0.6 * before


@pytest.mark.parametrize(
    ("model", "precision"), [(MODEL, "bf16"), (MODEL | {"inpaint": True}, "fp32"), (UPSAMPLER, "fp32")]
)
def test_what_a_run_exports_loads_as_the_averaged_model(
    data: Path, tmp_path: Path, model: dict[str, Any], precision: str
) -> None:
    config = train_config(data, model=model, precision=precision, steps=2)
    trainer = Trainer(config, tmp_path / "run")
    where = trainer.run(progress=False)
    assert where == tmp_path / "run" / "model"
    kind, options, state = read_directory(where)
    assert kind == "unet"
    assert "low_res_size" not in options
    assert options["vocab_rows"] == len(used_tokens(trainer.batches.tokens)) + 1
    loaded, _ = build(options)
    load_into(loaded, state, source=str(where))
    loaded.eval()
    batch = trainer.batches[9]
    with torch.no_grad():
        wanted = trainer.average.model(batch.x0, batch.t, **batch.inputs)
        torch.testing.assert_close(loaded(batch.x0, batch.t, **batch.inputs), wanted)
    assert not torch.equal(state["out.2.weight"], trainer.model.state_dict()["out.2.weight"])


def test_the_unknown_word_is_trained(data: Path, tmp_path: Path) -> None:
    # Without weight decay a row moves only where a gradient reaches it.
    config = train_config(data, unknown_dropout=0.5, caption_dropout=0.0, weight_decay=0.0)
    trainer = Trainer(config, tmp_path / "run")
    embedding = trainer.model.token_embedding
    before = embedding.weight.detach().clone()
    trainer.run(progress=False)
    assert not torch.equal(embedding.weight[0], before[0])
    stranger, _ = caption_tokens(["zebra"], 8)
    assert embedding(stranger)[0, 0].equal(embedding.weight[0])
    end = embedding(torch.tensor([[get_encoder().end_token]]))
    assert not end[0, 0].equal(embedding.weight[0])


@pytest.mark.parametrize(("model", "columns"), [(MODEL, 6), (UPSAMPLER, 6)])
def test_previews_are_grids_written_as_training_goes(
    data: Path, tmp_path: Path, model: dict[str, Any], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glide_fast.train.loop.PREVIEW_STEPS", "2")
    Trainer(train_config(data, model=model, sample_every=4), tmp_path / "run").run(progress=False)
    assert [file.name for file in (tmp_path / "run" / "samples").iterdir()] == ["0000004.png"]
    with Image.open(tmp_path / "run" / "samples" / "0000004.png") as grid:
        assert grid.width == columns * 16
        assert grid.height % 16 == 0
        assert len(grid.getcolors(2**16) or []) > 2


def test_the_log_has_a_line_every_few_steps_and_the_last(data: Path, tmp_path: Path) -> None:
    Trainer(train_config(data, steps=5, log_every=2), tmp_path / "run").run(progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3, 4]
    assert lines[0].keys() == {"step", "images_per_second", "loss", "mse", "vb", "grad_norm", "lr"}
    assert all(line["loss"] > 0 and line["images_per_second"] > 0 for line in lines)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_runs_on_a_gpu(data: Path, tmp_path: Path, precision: str) -> None:
    trainer = Trainer(train_config(data, precision=precision), tmp_path / "run", "cuda")
    trainer.run(progress=False)
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.model.parameters())
