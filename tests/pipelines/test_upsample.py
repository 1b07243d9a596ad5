"""The upsampler alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines import GlidePipeline, Stage


def test_it_is_the_second_stage(pipe: GlidePipeline) -> None:
    whole = pipe(["a", "b"], seed=3, output_type="pt", progress=False)
    again = pipe.upsample(whole.low_res, ["a", "b"], seed=3, output_type="pt", progress=False)
    assert torch.equal(again.images, whole.images)
    assert torch.equal(again.low_res, whole.low_res)


def test_pictures_of_eight_bits_pass_unchanged(pipe: GlidePipeline) -> None:
    whole = pipe("a", seed=3, output_type="pil", progress=False)
    again = pipe.upsample(whole.low_res, "a", seed=3, output_type="pil", progress=False)
    assert again.images[0].tobytes() == whole.images[0].tobytes()


def test_without_a_base_model(upsampler: Stage, settings: dict[str, Any]) -> None:
    """The upsampler's own size over four, as the released one enlarges."""
    pipe = GlidePipeline(None, upsampler, settings=settings)
    picture = torch.rand(3, 8, 8)
    result = pipe.upsample(picture, seed=1, output_type="pt", progress=False)
    assert result.images.shape == (1, 3, 32, 32)
    assert result.prompts == [""]
    for call in (
        lambda: pipe("a dog"),
        lambda: pipe.image_to_image("a", picture),
        lambda: pipe.inpaint("a", picture),
    ):
        with pytest.raises(InvalidInputError, match="upsampler only"):
            call()


def test_a_pipeline_without_an_upsampler_says_so(base_only: GlidePipeline) -> None:
    with pytest.raises(InvalidInputError, match="no upsampler"):
        base_only.upsample(torch.rand(3, 16, 16))


def test_size_is_checked(pipe: GlidePipeline) -> None:
    with pytest.raises(InvalidInputError, match=r"image: got '32x32 pixels'; accepted: .*16x16"):
        pipe.upsample(torch.rand(3, 32, 32))


def test_a_strength_takes_that_share_of_the_steps_from_the_enlarged_picture(pipe: GlidePipeline) -> None:
    seen: list[int] = []

    def enlarge(strength: float) -> torch.Tensor:
        seen.clear()
        result = pipe.upsample(
            torch.full((3, 16, 16), 0.25),
            seed=1,
            upsample_steps=50,
            upsample_strength=strength,
            callback_on_step_end=lambda end: seen.append(end.total),
            output_type="pt",
            progress=False,
        )
        return result.images

    barely = enlarge(0.02)
    assert seen == [1]
    # One step back from the picture changes it little, whatever the (random) weights say.
    assert (barely - 0.25).abs().mean() < 0.1
    enlarge(0.5)
    assert seen == [25] * 25
