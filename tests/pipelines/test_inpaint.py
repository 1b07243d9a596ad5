"""Inpainting: what is kept, in which polarity, at which sizes, and what the networks are shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from glide_fast.diffusion.rules import RULES
from glide_fast.pipelines import GlidePipeline, Stage
from glide_fast.pipelines.images import read_images, resize_images

LEFT = torch.zeros(32, 32, dtype=torch.bool)
LEFT[:, :12] = True


def make(pipe: GlidePipeline, image: Any, **options: Any) -> Any:
    return pipe.inpaint("a dog", image, **{"output_type": "pt", "progress": False, "seed": 5} | options)


@pytest.mark.parametrize("sampler", list(RULES))
@pytest.mark.parametrize("kind", ["plain", "trained for it"])
def test_the_kept_region_is_kept_in_both_stages(
    pipe: GlidePipeline, inpaint_pipe: GlidePipeline, pictures: torch.Tensor, kind: str, sampler: str
) -> None:
    chosen = pipe if kind == "plain" else inpaint_pipe
    result = make(chosen, pictures[0], keep_mask=LEFT, sampler=sampler, upsample_sampler=sampler)
    torch.testing.assert_close(result.images[0][..., :12], pictures[0][..., :12], rtol=0, atol=1e-5)
    small = (resize_images(pictures[:1] * 2 - 1, 16) + 1) / 2
    torch.testing.assert_close(result.low_res[..., :6], small[..., :6], rtol=0, atol=0.51 / 255)
    assert (result.images[0] - pictures[0])[..., 12:].abs().mean() > 0.02
    assert (result.low_res - small)[..., 6:].abs().mean() > 0.02


def test_polarities_are_opposites(pipe: GlidePipeline, pictures: torch.Tensor) -> None:
    keep = make(pipe, pictures[0], keep_mask=LEFT)
    repaint = make(pipe, pictures[0], repaint_mask=~LEFT)
    other = make(pipe, pictures[0], repaint_mask=LEFT)
    assert torch.equal(keep.images, repaint.images)
    torch.testing.assert_close(other.images[0][..., 12:], pictures[0][..., 12:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [True, False])
def test_masks_of_one_value(pipe: GlidePipeline, pictures: torch.Tensor, value: bool) -> None:
    mask = torch.full((32, 32), value)
    result = make(pipe, pictures[0], keep_mask=mask)
    if value:
        torch.testing.assert_close(result.images[0], pictures[0], rtol=0, atol=1e-5)
    else:
        plain = pipe("a dog", seed=5, output_type="pt", progress=False)
        assert torch.equal(result.images, plain.images)


def test_trained_models_see_the_masked_picture_and_others_do_not(
    pipe: GlidePipeline, inpaint_pipe: GlidePipeline, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, Any]] = []

    def listen(stage: Stage | None) -> None:
        assert stage is not None
        forward = stage.model.forward

        def listening(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            shown.append({"x": x.shape} | kwargs)
            return forward(x, *args, **kwargs)

        monkeypatch.setattr(stage.model, "forward", listening)

    for stage in (pipe.base, pipe.upsampler, inpaint_pipe.base, inpaint_pipe.upsampler):
        listen(stage)
    make(pipe, pictures[0], keep_mask=LEFT)
    assert all("inpaint_image" not in call for call in shown)
    shown.clear()
    make(inpaint_pipe, pictures[0], keep_mask=LEFT, guidance_scale=5.0)
    assert [tuple(call["inpaint_image"].shape) for call in shown] == [(2, 3, 16, 16)] * 4 + [
        (1, 3, 32, 32)
    ] * 3
    torch.testing.assert_close(shown[-1]["inpaint_image"][0], pictures[0] * 2 - 1)
    assert torch.equal(shown[-1]["inpaint_mask"][0, 0] > 0, LEFT)
    assert torch.equal(shown[0]["inpaint_mask"][1, 0] > 0, LEFT[::2, ::2])


def test_several_pictures_prompts_and_masks(pipe: GlidePipeline, pictures: torch.Tensor) -> None:
    masks = torch.stack([LEFT, ~LEFT])
    result = pipe.inpaint(
        ["a dog", "a cat"],
        pictures,
        keep_mask=masks,
        num_images_per_prompt=2,
        seed=[1, 2, 1, 2],
        output_type="pt",
        progress=False,
    )
    assert result.prompts == ["a dog"] * 2 + ["a cat"] * 2
    for i in range(4):
        part = masks[i // 2]
        torch.testing.assert_close(result.images[i][:, part], pictures[i // 2][:, part], rtol=0, atol=1e-5)
    alone = make(pipe, pictures[0], keep_mask=LEFT, seed=2)
    torch.testing.assert_close(result.images[1], alone.images[0], rtol=0, atol=0.02)


def test_pil_numpy_and_torch_inputs_agree(pipe: GlidePipeline, pictures: torch.Tensor) -> None:
    array = (pictures[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    mask = LEFT.numpy()
    results = [
        make(pipe, image, keep_mask=keep)
        for image, keep in (
            (array, mask.astype(np.uint8) * 255),
            (PIL.Image.fromarray(array), PIL.Image.fromarray(mask.astype(np.uint8) * 255)),
            (PIL.Image.fromarray(array), PIL.Image.fromarray(mask)),
            (torch.from_numpy(array).permute(2, 0, 1), LEFT.float()),
            (torch.from_numpy(array).permute(2, 0, 1).float() / 255, LEFT[None, None].to(torch.uint8)),
        )
    ]
    for result in results[1:]:
        torch.testing.assert_close(result.images, results[0].images, rtol=0, atol=1e-4)


def test_resizing_is_pils_bicubic() -> None:
    # Away from black and white, where PIL cuts what overshoots after each of its two passes.
    noise = 0.3 + 0.4 * torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    array = (noise.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    for size in (16, 32, 64):
        want = (
            np.asarray(PIL.Image.fromarray(array).resize((size, size), PIL.Image.Resampling.BICUBIC)) / 127.5
            - 1
        )
        got = resize_images(read_images(array), size)[0].permute(1, 2, 0).numpy()
        assert np.abs(got - want).max() < 2 / 127.5
