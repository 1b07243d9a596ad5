"""A stage's own memory, and its model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glide_fast.errors import InvalidInputError, ReentrantCallError
from glide_fast.pipelines import GlidePipeline, Stage
from glide_fast.runtime import accelerate

OPTIONS: dict[str, Any] = {
    "seed": 5,
    "output_type": "pt",
    "progress": False,
    "guidance_scale": 2.0,
    "num_inference_steps": 2,
}


def test_processes_are_few_and_released(own_base: Stage) -> None:
    kept = own_base.process("5")
    for steps in range(1, 40):
        assert own_base.process(str(steps)).num_timesteps == steps
        assert own_base.process("5").num_timesteps == 5
        assert len(own_base._processes) <= 8
    assert own_base.process("5") is own_base.process("5") is kept, "the latest used stay"
    GlidePipeline(own_base).release()
    assert len(own_base._processes) == 0
    assert own_base.process("5").num_timesteps == 5


def edited(stage: Stage) -> Any:
    """A plain model with other weights than the stage's, those of the text too."""
    model: Any = copy.deepcopy(stage.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    return model


@pytest.mark.parametrize("fast", [True, False])
def test_a_call_draws_with_the_model_that_took_the_others_place(own_base: Stage, fast: bool) -> None:
    other = edited(own_base)
    want = GlidePipeline(Stage(copy.deepcopy(other), own_base.options))("a", **OPTIONS).images
    pipe = GlidePipeline(own_base).accelerate("cpu", "fp32")
    before = pipe("a", **OPTIONS).images
    assert len(own_base.loops) == 1
    own_base.part_size = 1
    own_base.model = accelerate(other, dtype="fp32", image_size=16) if fast else other.train()  # type: ignore[assignment]
    assert not own_base.model.training and own_base.accelerated == fast
    assert len(own_base.loops) == 0 and own_base.part_size is None
    got = pipe("a", **OPTIONS).images
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)
    assert not torch.allclose(got, before, atol=1e-2)
    assert torch.equal(pickle.loads(pickle.dumps(pipe))("a", **OPTIONS).images, got)


def test_an_accelerated_model_gives_its_place_to_its_plain_one(own_base: Stage) -> None:
    pipe = GlidePipeline(own_base).accelerate("cpu", "fp32")
    want = pipe("a", **OPTIONS).images
    own_base.model = own_base.model.plain()  # type: ignore[operator]
    assert not pipe.accelerated
    torch.testing.assert_close(pipe("a", **OPTIONS).images, want, rtol=0, atol=1e-3)
    assert torch.equal(pipe.accelerate("cpu", "fp32")("a", **OPTIONS).images, want)


def test_what_is_no_unet_is_refused_and_changes_nothing(own_base: Stage, base: Stage) -> None:
    kept = own_base.model
    with pytest.raises(InvalidInputError, match=r"^model: "):
        own_base.model = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    assert own_base.model is kept

    def on_step(_: object) -> None:
        own_base.model = base.model

    with pytest.raises(ReentrantCallError, match=r"Stage\.model"):
        GlidePipeline(own_base)("a", callback_on_step_end=on_step, **OPTIONS)
    assert own_base.model is kept


def test_stages_that_share_a_model_share_its_lock(own_base: Stage, base: Stage) -> None:
    twin = Stage(copy.deepcopy(own_base.model), own_base.options)
    assert twin.lock is not own_base.lock
    twin.model = own_base.model
    assert twin.lock is own_base.lock is copy.copy(twin).lock


@pytest.mark.parametrize("share", [lambda stage: Stage(stage.model, stage.options), copy.copy])
def test_accelerating_leaves_a_model_whole_that_another_stage_has(
    own_base: Stage, share: Callable[[Stage], Stage]
) -> None:
    other = share(own_base)
    want = GlidePipeline(other)("a", **OPTIONS).images
    fast = GlidePipeline(own_base).accelerate("cpu", "fp32")
    assert torch.equal(GlidePipeline(other)("a", **OPTIONS).images, want)
    torch.testing.assert_close(fast("a", **OPTIONS).images, want, rtol=0, atol=1e-3)


def test_accelerating_takes_the_weights_of_a_model_that_no_other_stage_has(own_base: Stage) -> None:
    plain: Any = own_base.model
    former = Stage(plain, own_base.options)
    former.model = edited(own_base)  # has another one now
    GlidePipeline(own_base).accelerate("cpu", "fp32")
    assert plain.out[2].weight.numel() == 0
