"""What torch's generator gives after a model was made: a notebook that seeds at its top shows the official pictures only if
creating, loading, converting and accelerating a model draw from it what the official package draws, and nothing more."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import golden
from support.tiny import write_pipeline

import glide_fast.compat.clip.model_creation as clip
import glide_fast.compat.model_creation as official
from glide_fast import GlidePipeline, accelerate
from glide_fast.compat.clip.encoders import Affine
from glide_fast.compat.download import load_checkpoint
from glide_fast.compat.text2im_model import Text2ImUNet
from glide_fast.compat.tokenizer.bpe import get_encoder
from glide_fast.compat.tokenizer.simple_tokenizer import SimpleTokenizer

RECORDED: dict[str, list[float]] = json.loads((golden.DIRECTORY / "random_stream.json").read_text())
RECORDED_SEED = 11
SMALL = {
    "num_channels": 32,
    "num_head_channels": 32,
    "num_res_blocks": 1,
    "xf_width": 64,
    "xf_layers": 1,
    "xf_heads": 2,
    "text_ctx": 32,
}
TEXT_EMBEDDINGS = ("positional_embedding", "padding_embedding")


def create(case: str) -> list[torch.nn.Module]:
    """The modules of one creation by the official names, in the order in which they are made."""
    if case == "clip":
        model = clip.create_clip_model(device="cpu")
        return [model.text_encoder, model.image_encoder]
    if case == "defaults, small":
        options = official.model_and_diffusion_defaults() | SMALL
    elif case == "defaults_upsampler, small":
        options = official.model_and_diffusion_defaults_upsampler() | SMALL
    else:
        options = official.model_and_diffusion_defaults() | golden.facts()[case]["options"]
    return [official.create_model_and_diffusion(**options)[0]]


def draws(modules: list[torch.nn.Module]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each random tensor that the official constructors fill, in their order: "uniform" or "normal", and its shape.

    Convolutions and linear layers draw weight and bias, embeddings (CLIP's patches too) their weight. Norms draw nothing, nor do
    what the official package leaves uninitialised: two text embeddings and CLIP's matrices.
    """
    for module in modules:
        state = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        for name, shape in state.items():
            prefix, _, last = name.rpartition(".")
            if name in TEXT_EMBEDDINGS or last in ("g", "b", "w"):
                continue
            if last in ("weight", "bias") and "embedding" not in prefix:
                if len(state[f"{prefix}.weight"]) > 1:
                    yield "uniform", shape
            else:
                yield "normal", shape


def after(seed: int, distributions: list[tuple[str, tuple[int, ...]]]) -> torch.Tensor:
    """What the generator gives after these draws."""
    torch.manual_seed(seed)
    for distribution, shape in distributions:
        tensor = torch.empty(shape)
        tensor.normal_() if distribution == "normal" else tensor.uniform_()
    return torch.rand(4)


def assert_draws(case: str, seed: int) -> None:
    """One creation leaves torch's generator where the official draws would."""
    torch.manual_seed(seed)
    modules = create(case)
    left = torch.rand(4)
    assert torch.equal(left, after(seed, list(draws(modules))))


@pytest.mark.parametrize("case", RECORDED)
def test_creation_draws_what_the_official_package_draws(case: str) -> None:
    torch.manual_seed(RECORDED_SEED)
    create(case)
    assert torch.rand(4).tolist() == RECORDED[case]


@pytest.mark.parametrize("case", ["unet/upsampler", "defaults, small"])
def test_other_seeds(case: str) -> None:
    """By the rule that gives the recorded numbers for the recorded seed."""
    torch.manual_seed(RECORDED_SEED)
    assert after(RECORDED_SEED, list(draws(create(case)))).tolist() == RECORDED[case]
    for seed in (3, 2**40 + 77):
        assert_draws(case, seed)


SMALL_CLIP = {"n_vocab": 600, "n_embd": 16, "n_head_text": 2, "n_head_state_text": 8, "n_xf_blocks_text": 2}
SMALL_CLIP |= {"n_head_image": 2, "n_head_state_image": 8, "n_xf_blocks_image": 2, "patch_size": 16}


def small_clip() -> list[torch.nn.Module]:
    model = clip.create_clip_model(SMALL_CLIP, device="cpu")
    return [model.text_encoder, model.image_encoder]


@pytest.mark.parametrize("seed", [RECORDED_SEED, 3, 2**40 + 77])
def test_clip_with_other_seeds(seed: int) -> None:
    torch.manual_seed(seed)
    modules = small_clip()
    assert torch.equal(torch.rand(4), after(seed, list(draws(modules))))


def small_unet(**options: Any) -> Text2ImUNet:
    """The drop-in's class itself, built with no default; a vocabulary of its own, for speed."""
    arguments: dict[str, Any] = {"xf_padding": True, "channel_mult": (1, 2)} | options
    return Text2ImUNet(8, 32, 1, 1, True, SimpleNamespace(n_vocab=500), 3, 32, 6, 1, (2,), **arguments)


@pytest.mark.parametrize(
    "options", [{}, {"xf_ar": 1.0}, {"xf_padding": False}, {"num_classes": 5, "dims": 1}]
)
def test_a_class_of_the_drop_in(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    model = small_unet(**options)
    assert torch.equal(torch.rand(4), after(3, list(draws([model]))))


def test_another_default_type() -> None:
    """As officially, the text embeddings are fp32 all the same; the layers draw in the default type."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(3)
        model = small_unet()
        assert torch.equal(torch.rand(4), after(3, list(draws([model]))))
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.transformer_proj.weight.dtype == torch.float64
    assert model.positional_embedding.dtype == model.padding_embedding.dtype == torch.float32


def test_without_memory() -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = small_unet()
        encoder = clip.create_clip_model(SMALL_CLIP, device="meta").text_encoder
    assert all(parameter.is_meta for module in (model, encoder) for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def undrawn(seed: int) -> dict[str, torch.Tensor]:
    """The parameters that cost no draw, after every byte of memory that they may get was made NaN."""
    torch.manual_seed(seed)
    hot = [torch.full((size,), torch.nan) for size in (256, 2048, 4096) for _ in range(50)]
    del hot
    found: dict[str, torch.Tensor] = {}
    for number, module in enumerate([small_unet(), *small_clip(), Affine(16, 16, device="cpu")]):
        for name, parameter in module.named_parameters():
            if name in TEXT_EMBEDDINGS or name.split(".")[-1] == "w":
                found[f"{number}.{name}"] = parameter.detach()
    return found


def test_what_costs_no_draw_is_initialised_all_the_same() -> None:
    first, again, other = undrawn(0), undrawn(0), undrawn(1)
    assert len(first) == 2 + 2 * (2 * 6 + 1) + 1
    for name, value in first.items():
        assert value.isfinite().all()
        assert 0.005 < value.std() < 0.5
        assert torch.equal(value, again[name])  # a seed repeats a training run
        assert not torch.equal(value, other[name])
    values = list(first.values())
    for index, value in enumerate(values):  # no two start alike, which training would never part
        assert not any(torch.equal(value, before) for before in values[:index])


@contextmanager
def no_draw() -> Iterator[None]:
    """The global generators of torch, numpy and Python are where they were."""
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    yield
    now = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], now[0])
    assert before[1:] == now[1:]


def test_nothing_else_draws(tmp_path: Path) -> None:
    model, _ = official.create_model_and_diffusion(**official.model_and_diffusion_defaults() | SMALL)
    torch.save(model.state_dict(), tmp_path / "base.pt")
    with no_draw():
        official.create_gaussian_diffusion(1000, "squaredcos_cap_v2", "27")
        get_encoder().padded_tokens_and_mask(get_encoder().encode("a red cube"), 32)
        SimpleTokenizer().encode("a red cube")
        model.load_state_dict(load_checkpoint("base", "cpu", False, str(tmp_path)))
        model.convert_to_fp16()
        model.convert_to_fp32()
        accelerate(model.eval())


@pytest.mark.parametrize("accelerated", [True, False])
def test_a_pipeline_leaves_the_generators_alone(tmp_path: Path, accelerated: bool) -> None:
    """Its noise follows from the images' seeds; loading writes over every value."""
    write_pipeline(tmp_path / "pipeline")
    with no_draw():
        pipe = GlidePipeline.from_pretrained(tmp_path / "pipeline", accelerate=accelerated)
        pipe("a red square", seed=3)
