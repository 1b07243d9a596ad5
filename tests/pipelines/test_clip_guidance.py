"""CLIP guidance, alone and combined with classifier-free guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_fast.diffusion.noise import BASE_STREAMS, philox_normal
from glide_fast.diffusion.rules import RULES
from glide_fast.errors import InvalidInputError
from glide_fast.models.clip import CLIPModel
from glide_fast.models.factory import create_gaussian_diffusion
from glide_fast.pipelines import GlidePipeline, Stage
from glide_fast.text import get_encoder, tokenize


def make(pipe: GlidePipeline, prompt: Any = "a red circle", **options: Any) -> Any:
    return pipe(prompt, **{"output_type": "pt", "progress": False, "seed": 5} | options)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("sampler", list(RULES))
def test_it_moves_pictures(
    base_only: GlidePipeline, clip: CLIPModel, sampler: str, guidance_scale: float
) -> None:
    options: dict[str, Any] = {"sampler": sampler, "guidance_scale": guidance_scale}
    plain = make(base_only, **options)
    weak = make(base_only, clip=clip, clip_guidance_scale=1e-9, **options)
    strong = make(base_only, clip=clip, clip_guidance_scale=100.0, **options)
    assert (weak.images - plain.images).abs().max() < 3 / 255
    assert (strong.images - plain.images).abs().max() > 3 / 255
    assert not strong.images.requires_grad


def test_it_equals_the_official_loop(base_only: GlidePipeline, base: Stage, clip: CLIPModel) -> None:
    """As the released notebook samples: no classifier-free guidance, the gradient as ``cond_fn``."""
    prompt = "a red circle"
    got = make(base_only, prompt, clip=clip, clip_guidance_scale=50.0, guidance_scale=1.0, sampler="ddim")
    tokens, mask = tokenize(prompt, get_encoder(), 8)
    want = create_gaussian_diffusion(1000, "squaredcos_cap_v2", "4").ddim_sample_loop(
        base.model,
        (1, 3, 16, 16),
        noise=philox_normal(torch.tensor([5]), 0, (3, 16, 16), stream=BASE_STREAMS.start),
        device="cpu",
        cond_fn=clip.cond_fn([prompt], 50.0),
        model_kwargs={"tokens": tokens, "mask": mask},
    )
    torch.testing.assert_close(got.images, (want.clamp(-1, 1) + 1) / 2, rtol=0, atol=1.5 / 255)


def test_each_image_is_guided_by_its_own_prompt(base_only: GlidePipeline, clip: CLIPModel) -> None:
    options: dict[str, Any] = {"clip": clip, "clip_guidance_scale": 100.0}
    together = make(base_only, ["a red circle", "a dog"], seed=[1, 2], **options)
    alone = make(base_only, "a dog", seed=2, **options)
    assert (together.images[1] - alone.images[0]).abs().max() < 3 / 255


def test_the_pipelines_own_clip_is_used_when_asked_for(
    base: Stage, clip: CLIPModel, settings: dict[str, Any]
) -> None:
    own = GlidePipeline(base, clip=clip, settings=settings)
    without = GlidePipeline(base, settings=settings)
    assert torch.equal(make(own).images, make(without).images)
    want = make(without, clip=clip, clip_guidance_scale=3.0)
    assert torch.equal(make(own, clip_guidance_scale=3.0).images, want.images)
    assert torch.equal(make(without, clip=clip).images, want.images), "3 is the released example's scale"


def test_bad_input(base_only: GlidePipeline, clip: CLIPModel, pipe: GlidePipeline) -> None:
    with pytest.raises(InvalidInputError, match=r"clip_guidance_scale: .*without a CLIP"):
        make(base_only, clip_guidance_scale=1.0)
    with pytest.raises(InvalidInputError, match="clip_guidance_scale: got -1"):
        make(base_only, clip=clip, clip_guidance_scale=-1.0)
    with pytest.raises(InvalidInputError, match=r"clip: .*cond_fn"):
        make(base_only, clip=object())  # type: ignore[arg-type]

    class Other:
        class image_encoder:
            image_size = 64

        def cond_fn(self, prompts: list[str], grad_scale: float) -> Any:
            raise AssertionError("must be refused before any work")

    with pytest.raises(InvalidInputError, match=r"clip: .*64 px"):
        make(base_only, clip=Other())
