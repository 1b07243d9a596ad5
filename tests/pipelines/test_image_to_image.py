"""Image to image: how much of the picture is left, and how many steps that takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_fast.diffusion.rules import RULES
from glide_fast.pipelines import GlidePipeline, StepEnd
from glide_fast.pipelines.images import resize_images


def make(pipe: GlidePipeline, image: Any, **options: Any) -> Any:
    return pipe.image_to_image(
        "a dog", image, **{"output_type": "pt", "progress": False, "seed": 5} | options
    )


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 20), (0.6, 12), (0.5, 10), (0.001, 1)])
def test_strength_counts_steps(
    base_only: GlidePipeline, pictures: torch.Tensor, strength: float, steps: int
) -> None:
    seen: list[StepEnd] = []
    make(base_only, pictures[0], strength=strength, num_inference_steps=20, callback_on_step_end=seen.append)
    assert [(s.index, s.total) for s in seen] == [(i, steps) for i in range(steps)]


@pytest.mark.parametrize("sampler", list(RULES))
def test_less_strength_keeps_more(base_only: GlidePipeline, pictures: torch.Tensor, sampler: str) -> None:
    small = (resize_images(pictures[:1] * 2 - 1, 16) + 1) / 2
    changes = [
        float(
            (make(base_only, pictures[0], strength=s, num_inference_steps=20, sampler=sampler).images - small)
            .abs()
            .mean()
        )
        for s in (0.05, 0.4, 1.0)
    ]
    assert changes[0] < 0.05
    assert changes[0] < changes[1] < changes[2]


def test_both_stages_and_one_picture_for_several_prompts(pipe: GlidePipeline, pictures: torch.Tensor) -> None:
    result = pipe.image_to_image(
        ["a dog", "a cat"], pictures[0], 0.5, seed=[5, 6], output_type="pt", progress=False
    )
    assert result.images.shape == (2, 3, 32, 32)
    alone = pipe.image_to_image("a cat", pictures[0], 0.5, seed=6, output_type="pt", progress=False)
    torch.testing.assert_close(result.images[1:], alone.images, rtol=0, atol=0.02)


def test_several_pictures_for_one_prompt(pipe: GlidePipeline, pictures: torch.Tensor) -> None:
    result = make(pipe, list(pictures), seed=[5, 5])
    assert result.prompts == ["a dog"] * 2
    alone = make(pipe, pictures[1], seed=5)
    torch.testing.assert_close(result.images[1:], alone.images, rtol=0, atol=0.02)
