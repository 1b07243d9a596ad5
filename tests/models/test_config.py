"""Options of a model: what each may be, how they go together, and how large a model they make."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from support.tiny import MODEL

from glide_fast.errors import InvalidInputError
from glide_fast.models.config import (
    DIFFUSION_FIELDS,
    EXTENSIONS,
    MODEL_FIELDS,
    MOST_PARAMETERS,
    PRESETS,
    check_options,
    complete,
    model_and_diffusion_defaults,
    parameters_about,
    preset,
)
from glide_fast.models.factory import build, create_model
from glide_fast.models.uninitialised import Uninitialised

TINY = complete(MODEL | {"vocab_rows": 8})


def test_every_option_has_a_field() -> None:
    assert (
        MODEL_FIELDS.keys() | DIFFUSION_FIELDS.keys()
        == model_and_diffusion_defaults().keys() | EXTENSIONS.keys()
    )
    assert MODEL_FIELDS.keys() == inspect.signature(create_model).parameters.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_known_models_are_accepted(name: str) -> None:
    options = complete(preset(name))
    check_options(options)
    assert parameters_about(options) < MOST_PARAMETERS


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_scale_shift_norm": False, "resblock_updown": False, "num_res_blocks": 2},
        {"xf_ar": 0.5, "xf_padding": False, "attention_resolutions": "16,8"},
        {"xf_width": 0, "super_res": True, "channel_mult": "2,3"},
        {"vocab_rows": 0, "image_size": 8, "channel_mult": "2"},
    ],
)
def test_the_large_parameters_are_counted(changes: dict[str, Any]) -> None:
    options = TINY | changes
    with Uninitialised():
        model, _ = build(options)
    ends = ("input_blocks.0.0.weight", "out.2.weight")
    large = sum(p.numel() for name, p in model.named_parameters() if p.dim() > 1 and name not in ends)
    assert parameters_about(options) == large


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_res_blocks": 10**9}, "num_res_blocks: got 1000000000; accepted: an integer from 1 to 64"),
        ({"xf_layers": 10**9}, "xf_layers: got 1000000000"),
        ({"diffusion_steps": 10**9}, "diffusion_steps: got 1000000000"),
        (
            {"num_channels": 8192, "num_res_blocks": 64},
            r"num_channels: got 8192; accepted: .*parameters; these make",
        ),
        ({"use_fp16": 1}, "use_fp16: got 1; accepted: true or false"),
        ({"inpaint": "x"}, "inpaint: got 'x'; accepted: true or false"),
        ({"dropout": float("nan")}, "dropout: got nan"),
        ({"num_head_channels": 0}, "num_head_channels: got 0"),
        (
            {"num_head_channels": -1, "num_heads": 3},
            "num_heads: got 3; accepted: a divisor of the attention block's 32",
        ),
        (
            {"num_head_channels": -1, "num_heads_upsample": 3},
            "num_heads_upsample: got 3; accepted: a divisor",
        ),
        (
            {"num_head_channels": 24},
            "num_head_channels: got 24; accepted: a divisor of the attention block's 32",
        ),
        ({"channel_mult": "1," + "9" * 50}, "channel_mult: got"),
        ({"attention_resolutions": None}, "attention_resolutions: got None"),
        ({"attention_resolutions": "0"}, "attention_resolutions: got '0'"),
        ({"timestep_respacing": "2000"}, "timestep_respacing: got '2000'"),
        ({"timestep_respacing": [1, None]}, r"timestep_respacing: got \[1, None\]"),
        ({"noise_schedule": ["linear"]}, r"noise_schedule: got \['linear'\]"),
        ({"share_unemb": True, "xf_ar": 1.0}, "share_unemb: got True; accepted: false with vocab_rows"),
        ({"xf_heads": 3}, "xf_heads: got 3; accepted: a divisor of xf_width 32"),
        ({"norm_groups": 5}, "norm_groups: got 5; accepted: a divisor of num_channels 16"),
    ],
)
def test_what_is_refused_before_anything_is_built(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a layer was built")

    monkeypatch.setattr(torch.nn.Module, "__init__", fail)
    with pytest.raises(InvalidInputError, match=said):
        build(TINY | changes)


def test_names_that_are_no_text() -> None:
    with pytest.raises(InvalidInputError, match="options: got"):
        complete({1: 2, "x": 3})  # type: ignore[dict-item]
