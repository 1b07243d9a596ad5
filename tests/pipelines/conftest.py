"""Tiny pipelines with random weights, none of them zero, so that every output depends on every input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import golden

from glide_fast.models.clip import CLIPModel, create_clip_model
from glide_fast.pipelines import GlidePipeline, Stage

TINY: dict[str, Any] = {
    "image_size": 16,
    "num_channels": 32,
    "norm_groups": 8,
    "channel_mult": "1,2",
    "num_res_blocks": 1,
    "num_head_channels": 16,
    "attention_resolutions": "8",
    "text_ctx": 8,
    "xf_width": 32,
    "xf_layers": 1,
    "xf_heads": 1,
}
UPSAMPLER = TINY | {"image_size": 32, "channel_mult": "1,1,2", "super_res": True, "noise_schedule": "linear"}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only get in each other's way on layers this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_stage(**options: Any) -> Stage:
    stage = Stage.fresh(options)
    golden.fill(stage.model)
    with (
        torch.no_grad()
    ):  # at full strength a step multiplies rounding by thousands, and batches of 1 and 2 part
        stage.model.out[2].weight.mul_(0.3)
    return stage


@pytest.fixture(scope="session")
def base() -> Stage:
    return tiny_stage(**TINY)


@pytest.fixture(scope="session")
def upsampler() -> Stage:
    return tiny_stage(**UPSAMPLER)


@pytest.fixture
def own_base() -> Stage:
    """A base model of the test's own, to convert or to train."""
    return tiny_stage(**TINY)


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"num_inference_steps": 4, "upsample_steps": 3}


@pytest.fixture
def pipe(base: Stage, upsampler: Stage, settings: dict[str, Any]) -> GlidePipeline:
    return GlidePipeline(base, upsampler, settings=settings)


@pytest.fixture
def base_only(base: Stage, settings: dict[str, Any]) -> GlidePipeline:
    return GlidePipeline(base, settings=settings)


@pytest.fixture(scope="session")
def inpaint_stages() -> tuple[Stage, Stage]:
    return tiny_stage(**TINY, inpaint=True), tiny_stage(**UPSAMPLER, inpaint=True)


@pytest.fixture
def inpaint_pipe(inpaint_stages: tuple[Stage, Stage], settings: dict[str, Any]) -> GlidePipeline:
    return GlidePipeline(*inpaint_stages, settings=settings)


@pytest.fixture(scope="session")
def clip() -> CLIPModel:
    model = create_clip_model(
        {
            "image_size": 16,
            "patch_size": 4,
            "n_embd": 16,
            "n_head_state_text": 16,
            "n_head_text": 1,
            "n_xf_blocks_text": 1,
            "n_head_state_image": 16,
            "n_head_image": 1,
            "n_xf_blocks_image": 1,
            "n_timesteps": 1000,
        },
        device="cpu",
    )
    golden.fill(model.text_encoder)
    golden.fill(model.image_encoder)
    return model


@pytest.fixture
def pictures() -> torch.Tensor:
    """Two pictures with structure, ``[2, 3, 32, 32]`` in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    first = torch.stack([x, y, 1 - x])
    return torch.stack([first, (first > 0.5).float()])


def fast(*stages: Stage | None, settings: dict[str, Any]) -> GlidePipeline:
    """An accelerated pipeline of copies of the stages, in fp32, so that it can be compared with the plain one."""
    copies = [
        None if s is None else Stage.from_state(s.options, dict(s.model.state_dict()), source="")
        for s in stages
    ]
    return GlidePipeline(*copies, settings=settings).accelerate("cpu", "fp32")


@pytest.fixture
def fast_pipe(base: Stage, upsampler: Stage, settings: dict[str, Any]) -> GlidePipeline:
    return fast(base, upsampler, settings=settings)


@pytest.fixture
def fast_inpaint_pipe(inpaint_stages: tuple[Stage, Stage], settings: dict[str, Any]) -> GlidePipeline:
    return fast(*inpaint_stages, settings=settings)
