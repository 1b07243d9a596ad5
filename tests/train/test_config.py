"""The settings of a run: what is refused, in which words, and what may change when a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import MODEL, train_config

from glide_fast.errors import InvalidInputError
from glide_fast.train import TrainConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: got 0; accepted: an integer of at least 1"),
        ({"steps": 2.5}, "steps: got 2.5; accepted: an integer"),
        ({"batch_size": -4}, "batch_size: got -4; accepted: an integer of at least 1"),
        ({"batch_size": True}, "batch_size: got True; accepted: an integer"),
        ({"save_every": 0}, "save_every: got 0; accepted: an integer of at least 1"),
        ({"log_every": 0}, "log_every: got 0; accepted: an integer of at least 1"),
        ({"sample_every": -1}, "sample_every: got -1; accepted: a number of at least 0"),
        ({"warmup_steps": -1}, "warmup_steps: got -1; accepted: a number of at least 0"),
        ({"seed": -1}, "seed: got -1; accepted: a number of at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay: got nan; accepted: a finite number"),
        ({"learning_rate": 0}, "learning_rate: got 0; accepted: a positive number"),
        ({"learning_rate": float("inf")}, "learning_rate: got inf; accepted: a finite number"),
        ({"learning_rate": "fast"}, "learning_rate: got 'fast'; accepted: a finite number"),
        ({"max_weight": 0.0}, "max_weight: got 0.0; accepted: a positive number"),
        ({"ema_decay": 1.5}, "ema_decay: got 1.5; accepted: a number from 0 to 1"),
        ({"caption_dropout": -0.1}, "caption_dropout: got -0.1; accepted: a number from 0 to 1"),
        ({"weighting": "p2"}, "weighting: got 'p2'; accepted: eps or v"),
        ({"precision": "int8"}, "precision: got 'int8'; accepted: bf16, fp16, fp32"),
        ({"compile": 1}, "compile: got 1; accepted: true or false"),
        ({"data": 3}, "data: got 3; accepted: text"),
        ({"model": "small"}, "model: got 'small'; accepted: options by name"),
        ({"model": MODEL | {"image_size": "16"}}, "model['image_size']: got '16'; accepted: an integer"),
        ({"model": MODEL | {"channel_mult": [1, 2]}}, "model['channel_mult']: got [1, 2]; accepted: text"),
        ({"model": MODEL | {"xf_width": 0}}, "model['xf_width']: got 0; accepted: a positive integer"),
        ({"model": MODEL | {"image_size": 0}}, "model['image_size']: got 0; accepted: an integer from 8"),
        ({"model": MODEL | {"dropout": 10**400}}, "model['dropout']: got 1000"),
        ({"model": MODEL | {"dropout": 1.5}}, "model['dropout']: got 1.5; accepted: a number from 0 to 1"),
        ({"model": MODEL | {"text_ctx": 10**9}}, "model['text_ctx']: got 1000000000; accepted: an integer"),
        ({"model": MODEL | {"xf_heads": 3}}, "model['xf_heads']: got 3; accepted: a divisor of xf_width 32"),
        ({"model": MODEL | {"noise_schedule": "x"}}, "model['noise_schedule']: got 'x'; accepted: one of"),
        ({"model": MODEL | {"vocab_rows": -5}}, "model['vocab_rows']: got -5; accepted: an integer from -1"),
        ({"model": MODEL | {"low_res_size": "x"}}, "model['low_res_size']: got 'x'; accepted: an integer"),
        ({"model": MODEL | {"low_res_size": 0}}, "model['low_res_size']: got 0; accepted: an integer from 1"),
        ({"learning_rate": 10**400}, "learning_rate: got 1000"),
        ({"model": MODEL | {"chanels": 3}}, "options: got ['chanels']; accepted: only image_size"),
    ],
)
def test_bad_settings_are_named_with_what_is_accepted(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError) as raised:
        train_config(tmp_path, **change)
    assert str(raised.value).startswith(message)


def test_settings_survive_json(tmp_path: Path) -> None:
    config = train_config(tmp_path, seed=3, crop=0, compile=True)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_unknown_and_missing_settings_are_named(tmp_path: Path) -> None:
    values = train_config(tmp_path).to_json()
    with pytest.raises(InvalidInputError, match=r"got \['optimiser'\]"):
        TrainConfig.from_json(values | {"optimiser": "adam"})
    with pytest.raises(InvalidInputError, match="training settings: model and data missing"):
        TrainConfig.from_json({"steps": 3})


def test_only_what_leaves_the_result_alone_may_change(tmp_path: Path) -> None:
    config = train_config(tmp_path)
    free = {"log_every": 7, "save_every": 7, "sample_every": 7, "compile": True, "data": "elsewhere"}
    assert config.differences(train_config(tmp_path, **free)) == {}
    other = train_config(tmp_path, steps=9, seed=1, model=MODEL | {"num_channels": 32, "inpaint": True})
    assert config.differences(other) == {
        "model['num_channels']": (16, 32),
        "model['inpaint']": (None, True),
        "steps": (6, 9),
        "seed": (0, 1),
    }


def test_options_are_completed_without_what_is_only_for_training(tmp_path: Path) -> None:
    options = train_config(tmp_path, model=MODEL | {"super_res": True, "low_res_size": 8}).options()
    assert "low_res_size" not in options
    assert options["noise_schedule"] == "linear"
    assert options["num_channels"] == 16


def test_a_seed_that_torch_cannot_take_is_refused(tmp_path: Path) -> None:
    assert train_config(tmp_path, seed=2**43 - 1).seed == 2**43 - 1
    torch.manual_seed((2**43 - 1) * 1_000_003 + 10**9)
    with pytest.raises(InvalidInputError, match="seed: got 8796093022208; accepted: an integer from 0 to"):
        train_config(tmp_path, seed=2**43)
