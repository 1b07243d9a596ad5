"""A forward of the text transformer and of CLIP's towers copies no activation: nothing is concatenated, permuted or widened."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.traced import Copy, copies_of_activations
from torch import nn

from glide_fast.errors import BackendError
from glide_fast.models.clip import create_clip_model
from glide_fast.models.config import model_and_diffusion_defaults
from glide_fast.models.factory import create_model_and_diffusion
from glide_fast.ops.backends import force

# Not through attributes of the package: those are the functions.
text_attention, masked_attention = (
    importlib.import_module(f"glide_fast.ops.{name}") for name in ("text_attention", "masked_attention")
)

TYPES = [torch.float32, torch.bfloat16]
TEXT = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": "16",
    "num_head_channels": 32,
    "xf_width": 64,
    "xf_layers": 2,
    "xf_heads": 2,
    "text_ctx": 12,
}
CLIP = {
    "image_size": 16,
    "patch_size": 4,
    "n_vocab": 50,
    "max_text_len": 12,
    "n_embd": 32,
    "n_head_text": 2,
    "n_head_state_text": 32,
    "n_xf_blocks_text": 2,
    "n_head_image": 2,
    "n_head_state_image": 32,
    "n_xf_blocks_image": 2,
}


def copies(op: Any, run: Callable[[], object], weights: nn.Module) -> dict[str, list[Copy]]:
    """What a forward copies, for each backend of the attention that runs here and is more than the reference."""
    found = {}
    for name in op.OP.names:
        if name == "reference":
            continue
        try:
            with force(**{op.OP.name: name}):
                found[name] = copies_of_activations(run, weights)
        except BackendError:
            continue
    return found


def text_transformer(dtype: torch.dtype, device: str) -> tuple[Callable[[], object], nn.Module]:
    """From tokens to what the UNet is given."""
    torch.manual_seed(0)
    model = create_model_and_diffusion(**(model_and_diffusion_defaults() | TEXT))[0].to(device)
    model.convert_to(dtype)
    model.dtype = dtype
    tokens = torch.arange(24, device=device).view(2, 12)
    mask = torch.arange(12, device=device) < torch.tensor([[3], [12]], device=device)
    return lambda: model.encode_text(tokens, mask), model


def clip_towers(dtype: torch.dtype, device: str) -> list[tuple[Callable[[], torch.Tensor], nn.Module]]:
    torch.manual_seed(0)
    clip = create_clip_model(CLIP, device=device)
    clip.convert_to(dtype)
    tokens = torch.arange(24, device=device).view(2, 12)
    lengths, t = torch.tensor([3, 12], device=device), torch.tensor([5, 900], device=device)
    image = torch.randn(2, 3, 16, 16, device=device) * 255
    return [
        (lambda: clip.text_encoder(tokens, lengths), clip.text_encoder),
        (lambda: clip.image_encoder(image, t), clip.image_encoder),
    ]


@pytest.mark.parametrize("dtype", TYPES)
def test_text_transformer(dtype: torch.dtype) -> None:
    found = copies(text_attention, *text_transformer(dtype, "cpu"))
    assert {"cpu", "sdpa"} <= set(found) and not any(found.values()), found


@pytest.mark.parametrize("dtype", TYPES)
def test_text_transformer_as_the_rule_has_it(dtype: torch.dtype) -> None:
    assert copies_of_activations(*text_transformer(dtype, "cpu")) == []


@pytest.mark.parametrize("dtype", TYPES)
def test_clip(dtype: torch.dtype) -> None:
    for run, weights in clip_towers(dtype, "cpu"):
        found = copies(masked_attention, run, weights)
        assert {"cpu", "sdpa"} <= set(found) and not any(found.values()), found


@pytest.mark.parametrize("dtype", TYPES)
def test_clip_as_the_rule_has_it(dtype: torch.dtype) -> None:
    for run, weights in clip_towers(dtype, "cpu"):
        assert copies_of_activations(run, weights) == []


def test_the_reference_does_copy() -> None:
    """Otherwise the two tests above would say nothing."""
    with force("reference"):
        assert copies_of_activations(*text_transformer(torch.bfloat16, "cpu"))
        for run, weights in clip_towers(torch.bfloat16, "cpu"):
            assert copies_of_activations(run, weights)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*TYPES, torch.float16])
def test_on_a_device(dtype: torch.dtype) -> None:
    found = copies(text_attention, *text_transformer(dtype, "cuda"))
    assert "triton" in found and not found["triton"], found
    assert copies_of_activations(*text_transformer(dtype, "cuda")) == []
    for run, weights in clip_towers(dtype, "cuda"):
        found = copies(masked_attention, run, weights)
        assert "triton" in found and not found["triton"], found
        assert copies_of_activations(run, weights) == []


@pytest.mark.parametrize("dtype", TYPES)
def test_with_and_without_gradients_the_image_tower_gives_the_same(dtype: torch.dtype) -> None:
    """The class token is concatenated where autograd watches and written in place where it does not."""
    run, _ = clip_towers(dtype, "cpu")[1]
    with torch.no_grad(), force("reference"):
        written = run()
    with force("reference"):
        joined = run()
    assert joined.requires_grad and torch.equal(joined, written)
