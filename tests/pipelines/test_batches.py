"""A picture is the same in every batch: on a CPU bit for bit, where the package's and oneDNN's kernels compute it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from glide_fast.ops import native
from glide_fast.ops.convolution import packed_weight
from glide_fast.pipelines import GlidePipeline
from glide_fast.runtime import bound

OPTIONS: dict[str, Any] = {"output_type": "pt", "progress": False}
PROMPTS = ["a red cube", "a small dog on a black background", "two green stars"]
SEEDS = [3, 2**62, 9]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def same(got: torch.Tensor, want: torch.Tensor, dtype: str) -> None:
    if native.why_missing() is None and packed_weight.why_not(DTYPES[dtype]) is None:
        assert torch.equal(got, want)
    else:  # torch's own kernels round by the batch, as they do for bf16 on processors without AVX-512
        assert (got - want).abs().mean() < 1e-3


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_of_the_shipped_model(dtype: str, two_threads: None) -> None:
    pipe = GlidePipeline.from_pretrained("small", device="cpu", dtype=dtype)
    options = OPTIONS | {"num_inference_steps": 2, "upsample_steps": 1}
    together = pipe(PROMPTS, seed=SEEDS, **options)
    assert (together.images[0] - together.images[1]).abs().mean() > 0.01
    for i in (1, 2):
        alone = pipe(PROMPTS[i], seed=SEEDS[i], **options)
        same(together.low_res[i], alone.low_res[0], dtype)
        same(together.images[i], alone.images[0], dtype)
    pair = pipe(PROMPTS[1:], seed=SEEDS[1:], **options)
    same(together.images[1:], pair.images, dtype)


Call = Callable[[GlidePipeline, slice, torch.Tensor], Any]
MASK = torch.zeros(32, 32)
MASK[:, :16] = 1
CALLS: dict[str, Call] = {
    "negative prompts": lambda pipe, part, _: pipe(
        PROMPTS[part], negative_prompt=["a cat", "", "x"][part], seed=SEEDS[part], **OPTIONS
    ),
    "one prompt": lambda pipe, part, _: pipe(
        PROMPTS[0], num_images_per_prompt=len(SEEDS[part]), seed=SEEDS[part], **OPTIONS
    ),
    "unguided": lambda pipe, part, _: pipe(
        PROMPTS[part], guidance_scale=1.0, sampler="plms", seed=SEEDS[part], **OPTIONS
    ),
    "guided in part": lambda pipe, part, _: pipe(
        PROMPTS[part], guidance_interval=(0.2, 0.8), cache_interval=2, seed=SEEDS[part], **OPTIONS
    ),
    "inpaint": lambda pipe, part, images: pipe.inpaint(
        PROMPTS[part], images[part], keep_mask=MASK, sampler="dpm++2m", seed=SEEDS[part], **OPTIONS
    ),
    "image to image": lambda pipe, part, images: pipe.image_to_image(
        PROMPTS[part], images[part], 0.5, sampler="euler-a", seed=SEEDS[part], **OPTIONS
    ),
}


def test_of_every_call(
    fast_pipe: GlidePipeline, fast_inpaint_pipe: GlidePipeline, pictures: torch.Tensor
) -> None:
    images = torch.cat([pictures, pictures[:1].flip(3)])
    for name, call in CALLS.items():
        for pipe in (fast_pipe, fast_inpaint_pipe) if name == "inpaint" else (fast_pipe,):
            together = call(pipe, slice(3), images)
            for i in range(3):
                alone = call(pipe, slice(i, i + 1), images)
                same(together.low_res[i], alone.low_res[0], "fp32")
                same(together.images[i], alone.images[0], "fp32")


def test_where_scales_and_shifts_are_computed_at_each_step(
    fast_pipe: GlidePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of very many steps has no table of them, whatever the batch."""
    tabulated = fast_pipe(PROMPTS, seed=SEEDS, **OPTIONS)
    fast_pipe.release()
    model: Any = fast_pipe.require_base().model
    monkeypatch.setattr(bound, "TABLE_BYTES", 4 * model._films.width * model._films.bias.element_size() - 1)
    together = fast_pipe(PROMPTS, seed=SEEDS, **OPTIONS)
    for i in range(3):
        alone = fast_pipe(PROMPTS[i], seed=SEEDS[i], **OPTIONS)
        same(together.low_res[i], alone.low_res[0], "fp32")
    assert (together.low_res - tabulated.low_res).abs().max() < 0.02
