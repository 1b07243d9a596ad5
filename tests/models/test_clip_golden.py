"""Both CLIP encoders and the guidance gradient against the official implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import golden

from glide_fast.models.clip import CLIPModel, create_clip_model

FACT = golden.facts()["clip"]
CONFIG = {
    "image_size": 64,
    "patch_size": 8,
    "n_vocab": 49408,
    "n_embd": 32,
    "n_head_text": 2,
    "n_head_state_text": 16,
    "n_xf_blocks_text": 2,
    "n_head_image": 2,
    "n_head_state_image": 16,
    "n_xf_blocks_image": 2,
}


def recorded_texts() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.Generator(np.random.PCG64(5))
    lengths = rng.integers(2, 77, 3)
    assert lengths.tolist() == FACT["lengths"]
    return torch.from_numpy(rng.integers(0, 49407, (3, 77))), torch.from_numpy(lengths)


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    model = create_clip_model(CONFIG, device="cpu")
    golden.fill(model.text_encoder)
    golden.fill(model.image_encoder)
    return model


def test_state_dicts_are_the_official_ones(clip: CLIPModel) -> None:
    for encoder, keys in ((clip.text_encoder, "text_keys"), (clip.image_encoder, "image_keys")):
        assert {name: list(value.shape) for name, value in encoder.state_dict().items()} == FACT[keys]


def test_text(clip: CLIPModel) -> None:
    with torch.no_grad():
        assert golden.error("clip/text", clip.text_encoder(*recorded_texts())) < 1e-5


def test_image(clip: CLIPModel) -> None:
    x, t = golden.tensor("clip", 3, 3, 64, 64), torch.tensor(FACT["timesteps"])
    with torch.no_grad():
        assert golden.error("clip/image", clip.image_encoder((x + 1) * 127.5, t)) < 1e-5


def test_gradient(clip: CLIPModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # The recorded texts are random ids, so they take the place of tokenized prompts.
    monkeypatch.setattr(clip, "encode_prompts", lambda prompts: recorded_texts())
    with torch.no_grad():
        gradient = clip.cond_fn(["", "", ""], 1.0)(
            golden.tensor("clip", 3, 3, 64, 64), torch.tensor(FACT["timesteps"])
        )
    assert golden.error("clip/cond_fn_grad", gradient) < 1e-4
