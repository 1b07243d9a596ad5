"""The noise-aware CLIP beyond the recorded numbers: configuration, bad input, precision, what guidance does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from glide_fast.errors import InvalidInputError
from glide_fast.models.clip import CLIPModel, create_clip_model
from glide_fast.models.clip_blocks import LayerNorm
from glide_fast.models.clip_config import clip_defaults
from glide_fast.models.clip_image import ImageEncoder, standardise
from glide_fast.models.clip_text import TextEncoder
from glide_fast.text import PromptTruncatedWarning, get_tokenizer

SMALL = {
    "image_size": 16,
    "patch_size": 4,
    "n_vocab": 49408,
    "max_text_len": 12,
    "n_embd": 24,
    "n_head_text": 2,
    "n_head_state_text": 8,
    "n_xf_blocks_text": 2,
    "n_head_image": 2,
    "n_head_state_image": 8,
    "n_xf_blocks_image": 2,
}


@pytest.fixture
def clip() -> CLIPModel:
    torch.manual_seed(0)
    return create_clip_model(SMALL, device="cpu")


def test_released_size_has_the_released_shapes() -> None:
    model = create_clip_model(device="meta")
    text = {name: tuple(value.shape) for name, value in model.text_encoder.state_dict().items()}
    image = {name: tuple(value.shape) for name, value in model.image_encoder.state_dict().items()}
    assert text["blocks.input.w_voc"] == (65536, 512)
    assert text["blocks.input.w_pos"] == (77, 512)
    assert text["blocks.block_11.f_mlp.f_1.w"] == (2048, 512)
    assert image["blocks.input.w_t"] == (1000, 768)
    assert image["blocks.input.patch_proj"] == (768, 3, 4, 4)
    assert image["blocks.input.w_pos"] == (257, 768)
    assert text["blocks.output.f.w"] == (512, 512)
    assert image["blocks.output.f.w"] == (512, 768)
    assert (model.text_encoder.n_head, model.image_encoder.n_head) == (8, 12)


def test_configuration_from_mapping_yaml_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in SMALL.items()) + "logit_scale: 50.0\n")
    read = create_clip_model(str(path), device="meta")
    assert read.config == clip_defaults() | SMALL | {"logit_scale": 50.0}
    given = create_clip_model(SMALL, device="meta")
    assert {k: v.shape for k, v in read.image_encoder.state_dict().items()} == {
        k: v.shape for k, v in given.image_encoder.state_dict().items()
    }
    assert given.config["logit_scale"] == 100.0


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"n_layers": 3}, "n_layers"),
        ({"patch_size": 7}, "patch_size"),
        ({"n_embd": 0}, "n_embd"),
        ({"n_embd": True}, "n_embd"),
        ({"n_head_text": 2.0}, "n_head_text"),
        ({"n_timesteps": -1}, "n_timesteps"),
        ({"max_text_len": 1}, "max_text_len"),
        ({"logit_scale": 0}, "logit_scale"),
        ({"logit_scale": float("inf")}, "logit_scale"),
        (7, "config_path"),
    ],
)
def test_bad_configuration(config: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        create_clip_model(config, device="meta")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "a: [",
        "- 1\n- 2\n",
        "[" * 5000,
        "a: 2000-13-01\n",
        BOMB,
        BOMB + "n_embd: *a29\n",
        " " * 1_000_001,
        "n_embd: 1.0e+30",
    ],
)
def test_bad_configuration_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "clip.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInputError, match=r"config_path|config: got|n_embd: got") as refused:
        create_clip_model(path, device="meta")
    assert len(str(refused.value)) < 1000


def test_a_configuration_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InvalidInputError, match=r"config_path: .* cannot be read as YAML .*not a file"):
            create_clip_model(path, device="meta")
    with pytest.raises(InvalidInputError, match="config_path: got"):
        create_clip_model("a\0b", device="meta")


def test_a_configuration_of_a_billion_blocks() -> None:
    for changes in (
        {"n_xf_blocks_text": 10**9},
        {"n_vocab": 10**9},
        {"n_head_image": 256, "n_head_state_image": 1024, "n_xf_blocks_image": 256},
    ):
        with pytest.raises(
            InvalidInputError, match=r"n_xf_blocks_text: got|n_vocab: got|config: got .* parameters"
        ):
            create_clip_model(changes, device="meta")


def test_prompts_are_framed_padded_and_cut_with_a_warning(clip: CLIPModel) -> None:
    tokenizer = get_tokenizer()
    tokens, lengths = clip.encode_prompts(["", "a red cube"])
    assert tokens.tolist()[0] == [tokenizer.start_token, tokenizer.end_token] + [0] * 10
    assert lengths.tolist() == [2, 2 + len(tokenizer.encode("a red cube"))]
    with pytest.warns(PromptTruncatedWarning, match="red red"):
        tokens, lengths = clip.encode_prompts(["red " * 30])
    assert lengths.tolist() == [12]
    assert tokens[0, -1] == tokenizer.end_token


@pytest.mark.parametrize("prompts", [[], None, [3], [b"a"]])
def test_bad_prompts(clip: CLIPModel, prompts: Any) -> None:
    with pytest.raises(InvalidInputError, match="prompts"):
        clip.text_embeddings(prompts)


def test_embeddings_are_unit_vectors_and_padding_is_not_seen(clip: CLIPModel) -> None:
    embeddings = clip.text_embeddings(["a red cube", "a blue cube"])
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))
    tokens, lengths = clip.encode_prompts(["a red cube"])
    other = torch.where(torch.arange(12) < lengths[:, None], tokens, 77)
    torch.testing.assert_close(clip.text_encoder(other, lengths), clip.text_encoder(tokens, lengths))
    # Causal: a position's state does not depend on what follows.
    torch.testing.assert_close(
        clip.text_encoder(tokens, lengths - 1, return_probe_features=True),
        clip.text_encoder(torch.where(torch.arange(12) < lengths[:, None] - 1, tokens, 5), lengths - 1, True),
    )
    images = clip.image_embeddings(torch.randn(3, 3, 16, 16), torch.tensor([0, 10, 999]))
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(3))


def test_timestep_matters_only_where_the_encoder_knows_it() -> None:
    noisy = create_clip_model(SMALL, device="cpu")
    x = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    early, late = noisy.image_embeddings(x, torch.tensor([0, 999]))
    assert not torch.allclose(early, late, atol=1e-3)
    clean = create_clip_model(SMALL | {"n_timesteps": 0}, device="cpu").image_encoder
    assert "blocks.input.pred_state" in clean.state_dict()
    assert clean((x + 1) * 127.5).shape == (2, 24)
    with pytest.raises(InvalidInputError, match="timesteps"):
        clean(x, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("image", "t"),
    [
        (torch.zeros(2, 3, 16, 8), torch.zeros(2, dtype=torch.long)),
        (torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.long)),
        (torch.zeros(3, 16, 16), torch.zeros(2, dtype=torch.long)),
        (torch.zeros(2, 3, 16, 16), None),
        (torch.zeros(2, 3, 16, 16), torch.zeros(1, dtype=torch.long)),
    ],
)
def test_bad_images(clip: CLIPModel, image: torch.Tensor, t: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"image|timesteps"):
        clip.image_encoder(image, t)


@pytest.mark.parametrize(
    ("text", "lengths"), [(torch.zeros(2, 11), torch.ones(2)), (torch.zeros(12), torch.ones(1))]
)
def test_bad_tokens(clip: CLIPModel, text: torch.Tensor, lengths: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="text"):
        clip.text_encoder(text.long(), lengths.long())


def test_standardise_is_the_channelwise_affine_map() -> None:
    means, stds = (
        torch.tensor([122.77093945, 116.74601272, 104.09373519]),
        torch.tensor([68.50053285, 66.63215831, 70.32316309]),
    )
    pixels = torch.rand(2, 3, 5, 5) * 255
    torch.testing.assert_close(standardise(pixels), (pixels - means.view(3, 1, 1)) / stds.view(3, 1, 1))


def test_gradient_is_the_derivative_of_the_scaled_cosine(clip: CLIPModel) -> None:
    text, image = clip.text_encoder.double(), clip.image_encoder.double()
    assert isinstance(text, TextEncoder)
    assert isinstance(image, ImageEncoder)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    t = torch.tensor([3, 700])
    prompts = ["a red cube", "a star"]
    gradient = clip.cond_fn(prompts, 2.0)(x, t, tokens=None, mask=None)
    direction = torch.randn_like(x)

    def score(moved: torch.Tensor) -> torch.Tensor:
        return 100 * (clip.text_embeddings(prompts) * clip.image_embeddings(moved, t)).sum()

    with torch.no_grad():
        step = 1e-5
        slope = (score(x + step * direction) - score(x - step * direction)) / (2 * step)
    torch.testing.assert_close(2 * slope, (gradient * direction).sum(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(clip.cond_fn(prompts, 2.0)(x, t, grad_scale=4.0), 2 * gradient)


def test_gradient_leaves_parameters_and_input_alone(clip: CLIPModel) -> None:
    x = torch.randn(2, 3, 16, 16)
    cond_fn = clip.cond_fn(["one prompt for all"], 1.0)
    with torch.no_grad():
        gradient = cond_fn(x, torch.tensor([5, 5]))
    assert gradient.shape == x.shape
    assert not gradient.requires_grad
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in clip.image_encoder.parameters())
    with pytest.raises(InvalidInputError, match="prompts"):
        cond_fn_of_two = clip.cond_fn(["a", "b"], 1.0)
        cond_fn_of_two(torch.randn(3, 3, 16, 16), torch.tensor([5, 5, 5]))


def test_bf16_stays_close_and_norms_are_computed_in_fp32(clip: CLIPModel) -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    direction = clip.cond_fn(["a red cube", "a star"], 1.0)(x, t)
    with torch.no_grad():
        wide_image, wide_text = clip.image_embeddings(x, t), clip.text_embeddings(["a red cube", "a star"])
        clip.image_encoder.to(torch.bfloat16)
        clip.text_encoder.to(torch.bfloat16)
        image, text = clip.image_embeddings(x, t), clip.text_embeddings(["a red cube", "a star"])
    assert image.dtype == text.dtype == torch.float32
    assert (image * wide_image).sum(-1).min() > 0.995
    assert (text * wide_text).sum(-1).min() > 0.995
    gradient = clip.cond_fn(["a red cube", "a star"], 1.0)(x, t)
    assert gradient.dtype == torch.float32
    assert torch.cosine_similarity(gradient.flatten(1), direction.flatten(1)).min() > 0.98

    norm = LayerNorm(512).to(torch.bfloat16)
    far = (torch.randn(4, 512) + 100).to(torch.bfloat16)
    want = nn.functional.layer_norm(far.double(), (512,)).to(torch.bfloat16)
    torch.testing.assert_close(norm(far), want, rtol=0.01, atol=1e-2)


def test_converting_keeps_norms_in_fp32_and_names_shapes_and_gradients(clip: CLIPModel) -> None:
    shapes = {name: value.shape for name, value in clip.image_encoder.state_dict().items()}
    clip.convert_to(torch.bfloat16)
    types = {name: value.dtype for name, value in clip.image_encoder.state_dict().items()}
    assert {name: value.shape for name, value in clip.image_encoder.state_dict().items()} == shapes
    for name, dtype in types.items():
        assert dtype == (torch.float32 if name.endswith(("ln.g", "ln.b")) else torch.bfloat16), name
    features = clip.image_encoder(torch.rand(1, 3, 16, 16) * 255, torch.tensor([3]))
    assert features.dtype == torch.bfloat16
    features.float().sum().backward()
    for name, parameter in clip.image_encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == parameter.dtype, name
    clip.convert_to(torch.float32)
    assert all(p.dtype == torch.float32 for p in clip.text_encoder.parameters())
    with pytest.raises(InvalidInputError, match="dtype"):
        clip.convert_to(torch.int32)
    assert all(p.dtype == torch.float32 for p in clip.text_encoder.parameters())


def test_guidance_in_bf16_points_where_it_does_in_fp32(clip: CLIPModel) -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    wide = clip.cond_fn(["a red cube", "a star"], 1.0)(x, t)
    clip.convert_to(torch.bfloat16)
    narrow = clip.cond_fn(["a red cube", "a star"], 1.0)(x, t)
    assert narrow.dtype == torch.float32
    assert torch.cosine_similarity(narrow.flatten(1), wide.flatten(1)).min() > 0.98
