"""Shallow steps: the deep levels' result of the last full step, used again."""

from __future__ import annotations

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.runtime import accelerate
from glide_fast.runtime.bound import Bound
from glide_fast.runtime.model import Accelerated

SHAPE = (3, SIZE, SIZE)


def bound(**changes: object) -> Bound:
    model = accelerate(tiny_model("base", **changes), dtype="fp32", image_size=SIZE)
    assert isinstance(model, Accelerated)
    arguments = call_arguments("base")
    made = model.bind([5, 300, 999], 2, SHAPE, text=model.encode_text(arguments["tokens"], arguments["mask"]))
    made.remember_deep()
    return made


def step(network: Bound, x: torch.Tensor, place: int, *, shallow: bool) -> torch.Tensor:
    rows = torch.full((len(x),), place)
    return network(network.empty_inputs(len(x), SHAPE).copy_(x), rows, rows, shallow=shallow)


@pytest.mark.parametrize("changes", [{}, {"num_res_blocks": 2}, {"channel_mult": "1,1"}])
def test_of_the_same_state_a_shallow_step_gives_what_a_full_one_does(changes: dict[str, object]) -> None:
    network = bound(**changes)
    full = step(network, states(), 1, shallow=False)
    torch.testing.assert_close(step(network, states(), 1, shallow=True), full, rtol=2e-5, atol=2e-5)
    half = step(network, states()[:1], 1, shallow=True)
    torch.testing.assert_close(half, full[:1], rtol=2e-5, atol=2e-5)


def test_of_a_state_nearby_it_errs_by_the_deep_levels_alone() -> None:
    network = bound()
    step(network, states(), 1, shallow=False)
    nearby = states() + 0.05 * states(seed=8)
    shallow = step(network, nearby, 1, shallow=True)
    full = step(network, nearby, 1, shallow=False)
    stale = step(network, states(), 1, shallow=False)
    # Nearer to the truth than last step's prediction, but not equal to it: the outer level saw the new state.
    assert 0 < (shallow - full).norm() < (stale - full).norm()


def test_a_shallow_step_needs_a_full_one_before_it() -> None:
    with pytest.raises(RuntimeError, match="full one"):
        step(bound(), states(), 1, shallow=True)
