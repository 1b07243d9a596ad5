"""Prompt encoding: each prompt once, the empty one for as long as the weights last."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_fast.pipelines import GlidePipeline, Stage
from glide_fast.pipelines.conditioning import PromptEncoder


@pytest.fixture
def encoded(own_base: Stage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the text transformer's runs."""
    runs: list[int] = []
    encode = own_base.model.encode_text

    def listening(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        runs.append(len(tokens))
        return encode(tokens, mask)

    monkeypatch.setattr(own_base.model, "encode_text", listening)
    return runs


def test_order_and_repetition(own_base: Stage, encoded: list[int]) -> None:
    prompts = ["b", "", "a", "b", ""]
    text = own_base.prompts.encode(prompts)
    assert text is not None
    assert encoded == [1, 1, 1]  # on a CPU each by itself, so that it is the same beside any other
    for i, prompt in enumerate(prompts):
        single = PromptEncoder(own_base.model).encode([prompt])
        assert single is not None
        for name in ("xf_out", "xf_proj"):
            assert torch.equal(text[name][i : i + 1], single[name])


def test_the_empty_prompt_is_encoded_once(
    own_base: Stage, encoded: list[int], settings: dict[str, Any]
) -> None:
    pipe = GlidePipeline(own_base, settings=settings)
    for prompt in ("a", "b", ""):
        pipe(prompt, seed=1, output_type="pt", progress=False)
    assert encoded == [1, 1, 1]  # "a", the empty prompt, "b"


@pytest.mark.parametrize("change", ["load_state_dict", "in place", "replaced", "precision"])
def test_new_weights_are_noticed(own_base: Stage, change: str) -> None:
    model = own_base.model
    before = own_base.prompts.empty()["xf_proj"].float().clone()
    if change == "load_state_dict":
        model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})
    elif change == "in place":
        with torch.no_grad():
            model.transformer_proj.weight.mul_(1.5)
    elif change == "replaced":
        model.transformer_proj.weight = torch.nn.Parameter(model.transformer_proj.weight * 1.5)
    else:
        model.convert_to(torch.bfloat16)
    after = own_base.prompts.empty()["xf_proj"]
    assert (after.float() - before).abs().max() > 1e-6
    fresh = PromptEncoder(model).empty()["xf_proj"]
    assert torch.equal(after, fresh)


def test_models_without_text(settings: dict[str, Any]) -> None:
    from glide_fast.models.config import complete

    options = complete(
        {
            "image_size": 16,
            "num_channels": 32,
            "norm_groups": 8,
            "channel_mult": "1,2",
            "num_res_blocks": 1,
            "num_head_channels": 16,
            "attention_resolutions": "8",
            "xf_width": 0,
        }
    )
    pipe = GlidePipeline(Stage.fresh(options), settings=settings)
    assert pipe("whatever", seed=1, output_type="pt", progress=False).images.shape == (1, 3, 16, 16)
