"""Text to image: shapes, seeds, batches, prompts, samplers, outputs, callbacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from glide_fast.diffusion.noise import BASE_STREAMS, UPSAMPLER_STREAMS, philox_normal
from glide_fast.diffusion.rules import RULES
from glide_fast.models.factory import create_gaussian_diffusion
from glide_fast.pipelines import GlidePipeline, Stage, StepEnd
from glide_fast.text import PromptTruncatedWarning, get_encoder, tokenize


def make(pipe: GlidePipeline, prompt: Any = "a red circle", **options: Any) -> Any:
    return pipe(prompt, **{"output_type": "pt", "progress": False, "seed": 5} | options)


def test_two_stages(pipe: GlidePipeline) -> None:
    result = make(pipe, ["a red circle", "a dog"], num_images_per_prompt=2)
    assert result.images.shape == (4, 3, 32, 32)
    assert result.low_res.shape == (4, 3, 16, 16)
    assert result.seeds == [5, 6, 7, 8]
    assert result.prompts == ["a red circle"] * 2 + ["a dog"] * 2
    assert len(result) == 4
    assert not result.images.is_inference()
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    levels = result.low_res * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_without_an_upsampler(base_only: GlidePipeline) -> None:
    result = make(base_only)
    assert result.images.shape == (1, 3, 16, 16)
    assert torch.equal(result.images, result.low_res)


def test_ddim_path_equals_the_official_loops(pipe: GlidePipeline, base: Stage, upsampler: Stage) -> None:
    """Both stages as the released notebook writes them, from the same starting noise."""
    prompt, scale, seeds = "a red circle", 3.0, torch.tensor([5])
    got = make(pipe, prompt, sampler="ddim", guidance_scale=scale, upsample_steps=27)

    tokens, mask = tokenize([prompt, ""], get_encoder(), 8)

    def guided(x: torch.Tensor, ts: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        half = x[: len(x) // 2]
        out = base.model(torch.cat([half, half]), ts, **kwargs)
        eps, rest = out[:, :3], out[:, 3:]
        cond, uncond = eps.chunk(2)
        mixed = uncond + scale * (cond - uncond)
        return torch.cat([torch.cat([mixed, mixed]), rest], dim=1)

    noise = philox_normal(seeds, 0, (3, 16, 16), stream=BASE_STREAMS.start)
    process = create_gaussian_diffusion(1000, "squaredcos_cap_v2", "4")
    sample = process.ddim_sample_loop(
        guided,
        (2, 3, 16, 16),
        noise=torch.cat([noise, noise]),
        device="cpu",
        model_kwargs={"tokens": tokens, "mask": mask},
    )[:1]
    # The pipeline rounds to 8-bit levels; a value half-way between two of them may go either way.
    torch.testing.assert_close(got.low_res * 255, (sample + 1) * 127.5, rtol=0, atol=0.5 + 0.01)
    torch.testing.assert_close(got.low_res * 255, (got.low_res * 255).round(), rtol=0, atol=1e-4)
    low_res = got.low_res * 2 - 1

    noise = philox_normal(seeds, 0, (3, 32, 32), stream=UPSAMPLER_STREAMS.start) * 0.997
    process = create_gaussian_diffusion(1000, "linear", "fast27")
    sample = process.ddim_sample_loop(
        upsampler.model,
        (1, 3, 32, 32),
        noise=noise,
        device="cpu",
        model_kwargs={"low_res": low_res, "tokens": tokens[:1], "mask": mask[:1]},
    )
    torch.testing.assert_close(got.images, (sample.clamp(-1, 1) + 1) / 2, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampler", list(RULES))
def test_a_seed_gives_the_same_picture_in_any_batch(pipe: GlidePipeline, sampler: str) -> None:
    prompts = ["a red circle", "", "two dogs"]
    options = {"sampler": sampler, "upsample_sampler": sampler}
    together = make(pipe, prompts, seed=[3, 2**62, 9], **options)
    for i, prompt in enumerate(prompts):
        alone = make(pipe, prompt, seed=together.seeds[i], **options)
        # A rounding difference can move a pixel of the base's picture by one 8-bit level.
        assert (together.low_res[i] - alone.low_res[0]).abs().max() < 1.5 / 255
        assert (together.low_res[i] != alone.low_res[0]).float().mean() < 0.01
        assert (together.images[i] - alone.images[0]).abs().max() < 0.02


def test_prompt_seed_and_scale_all_matter(pipe: GlidePipeline) -> None:
    reference = make(pipe)
    for change in (
        {"prompt": "a blue square"},
        {"seed": 6},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.0},
        {"negative_prompt": "a dog"},
        {"sampler": "plms"},
        {"num_inference_steps": 5},
    ):
        other = make(pipe, **change)
        assert (other.low_res - reference.low_res).abs().max() > 2 / 255, change
    for change in (
        {"upsample_steps": 4},
        {"upsample_sampler": "ddpm"},
        {"upsample_temp": 0.9},
        {"upsample_strength": 0.5},
    ):
        other = make(pipe, **change)
        assert torch.equal(other.low_res, reference.low_res), change
        assert (other.images - reference.images).abs().max() > 1e-3, change


def test_an_empty_negative_prompt_is_none(pipe: GlidePipeline) -> None:
    assert torch.equal(make(pipe, negative_prompt="").images, make(pipe).images)


def test_negative_prompts_belong_to_their_prompts(base_only: GlidePipeline) -> None:
    both = make(base_only, ["a", "b"], negative_prompt=["c", "d"], seed=[1, 2])
    second = make(base_only, "b", negative_prompt="d", seed=2)
    torch.testing.assert_close(both.images[1:], second.images, rtol=0, atol=1.5 / 255)


def test_scale_one_is_the_conditional_model_at_half_the_batch(
    base_only: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_only.base is not None
    batches: list[int] = []
    forward = type(base_only.base.model).forward

    def listening(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        batches.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(type(base_only.base.model), "forward", listening)
    plain = make(base_only, guidance_scale=1.0)
    nearly = make(base_only, guidance_scale=1.0 + 1e-7)
    assert batches == [1] * 4 + [2] * 4
    torch.testing.assert_close(plain.images, nearly.images, rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("output_type", ["pil", "np"])
def test_output_types_agree(pipe: GlidePipeline, output_type: str) -> None:
    want = make(pipe, ["a", "b"])
    got = make(pipe, ["a", "b"], output_type=output_type)
    for field in ("images", "low_res"):
        tensors = getattr(want, field).permute(0, 2, 3, 1).numpy()
        if output_type == "np":
            assert getattr(got, field).dtype == np.float32
            np.testing.assert_array_equal(getattr(got, field), tensors)
        else:
            images = getattr(got, field)
            assert [image.mode for image in images] == ["RGB", "RGB"]
            np.testing.assert_allclose(
                np.stack([np.asarray(i) for i in images]) / 255, tensors, atol=0.5001 / 255
            )


def test_seeds_from_generators_and_from_torch(base_only: GlidePipeline) -> None:
    generator = torch.Generator().manual_seed(1)
    first = make(base_only, ["a", "b"], seed=None, generator=generator)
    again = make(base_only, ["a", "b"], seed=None, generator=torch.Generator().manual_seed(1))
    assert first.seeds == again.seeds
    assert torch.equal(first.images, again.images)
    assert torch.equal(make(base_only, ["a", "b"], seed=first.seeds).images, first.images)

    torch.manual_seed(3)
    drawn = make(base_only, seed=None).seeds
    assert drawn != make(base_only, seed=None).seeds
    torch.manual_seed(3)
    assert drawn == make(base_only, seed=None).seeds


def test_callbacks_see_every_step_of_both_stages_and_may_stop(pipe: GlidePipeline) -> None:
    seen: list[StepEnd] = []
    make(pipe, ["a", "b"], callback_on_step_end=seen.append)
    assert [(s.stage, s.index, s.total) for s in seen] == [("base", i, 4) for i in range(4)] + [
        ("upsampler", i, 3) for i in range(3)
    ]
    assert {tuple(s.x0.shape) for s in seen} == {(2, 3, 16, 16), (2, 3, 32, 32)}

    def stop(step: StepEnd) -> None:
        if step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(pipe, callback_on_step_end=stop)


def test_progress_bars_can_be_had(pipe: GlidePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    make(pipe, progress=True)
    shown = capsys.readouterr().err
    assert "base" in shown
    assert "4/4" in shown
    assert "3/3" in shown
    make(pipe, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("prompt", ["", "🦊🔥", "naïve café", "a\nb\tc", "   "])
def test_unusual_prompts_work(base_only: GlidePipeline, prompt: str) -> None:
    assert bool(make(base_only, prompt).images.isfinite().all())


def test_long_prompts_warn_and_are_cut(base_only: GlidePipeline) -> None:
    with pytest.warns(PromptTruncatedWarning, match="the model reads 8"):
        long = make(base_only, "one two three four five six seven eight nine")
    short = make(base_only, "one two three four five six seven eight")
    assert torch.equal(long.images, short.images)


def test_one_step(pipe: GlidePipeline) -> None:
    assert bool(make(pipe, num_inference_steps=1, upsample_steps=1).images.isfinite().all())


def test_models_do_not_drop_out(base_only: GlidePipeline) -> None:
    assert base_only.base is not None
    want = make(base_only).images
    base_only.base.model.train()
    assert torch.equal(make(base_only).images, want)


def test_bf16_is_close_to_fp32(own_base: Stage, settings: dict[str, Any]) -> None:
    pipe = GlidePipeline(own_base, settings=settings)
    options = {"sampler": "ddim", "guidance_scale": 1.0}
    exact = make(pipe, **options).images
    assert pipe.to(dtype="bf16") is pipe
    assert pipe.dtype == torch.bfloat16
    rounded = make(pipe, **options).images
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.05
