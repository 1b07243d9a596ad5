"""Whether kernels are launched early: off for direct calls, on for a model's step, never on a device without it."""

from __future__ import annotations

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.ops import dependent_launch
from glide_fast.ops.backends import listen
from glide_fast.runtime import accelerate
from glide_fast.runtime.features import Features

HOPPER = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (9, 0))
    monkeypatch.setattr(dependent_launch, "_has_it", dependent_launch._has_it.__wrapped__)


def test_it_is_off_outside_of_a_block_and_after_it() -> None:
    assert not dependent_launch.wanted(HOPPER)
    with dependent_launch.allowed():
        assert dependent_launch.wanted(HOPPER)
        with dependent_launch.allowed(False):
            assert not dependent_launch.wanted(HOPPER)
        assert dependent_launch.wanted(HOPPER)
    assert not dependent_launch.wanted(HOPPER)


def test_it_needs_compute_capability_9(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (8, 9))
    with dependent_launch.allowed():
        assert not dependent_launch.wanted(HOPPER)
        assert not dependent_launch.wanted(torch.device("cpu"))


@pytest.mark.parametrize("setting", [True, False])
def test_a_models_step_allows_it_as_its_features_say(setting: bool) -> None:
    model = accelerate(
        tiny_model("base"), dtype="fp32", image_size=SIZE, features=Features(dependent_launch=setting)
    )
    seen: set[bool] = set()
    with torch.no_grad(), listen(lambda choice: seen.add(dependent_launch.wanted(HOPPER))):
        model(states(), torch.tensor([700, 700]), **call_arguments("base"))
    assert setting in seen
    assert not dependent_launch.wanted(HOPPER)
