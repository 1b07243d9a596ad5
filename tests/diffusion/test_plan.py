"""Which steps are guided and which are shallow, and what a loop makes of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glide_fast.diffusion.plan import StepKind, plan_steps
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.errors import InvalidInputError

FALLING = st.lists(st.integers(0, 999), min_size=1, max_size=60, unique=True).map(
    lambda steps: sorted(steps, reverse=True)
)


def test_by_default_every_step_is_full() -> None:
    assert plan_steps([900, 500, 0], 1000, guided=True) == [StepKind(True, False)] * 3
    assert plan_steps([900, 500, 0], 1000, guided=False) == [StepKind(False, False)] * 3


def test_an_interval_and_a_cache() -> None:
    kinds = plan_steps(
        [900, 700, 500, 300, 100, 0], 1000, guided=True, guidance_interval=(0.3, 0.7), cache_interval=2
    )
    assert kinds == [
        StepKind(False, False),
        # The full step before it saw the conditional half alone.
        StepKind(True, False),
        StepKind(True, True),
        StepKind(True, False),
        StepKind(False, True),
        StepKind(False, False),
    ]


@given(
    FALLING, st.booleans(), st.none() | st.tuples(st.floats(0, 0.5), st.floats(0.51, 1)), st.integers(1, 5)
)
def test_a_shallow_step_finds_what_it_needs(
    steps: list[int], guided: bool, interval: tuple[float, float] | None, every: int
) -> None:
    kinds = plan_steps(steps, 1000, guided=guided, guidance_interval=interval, cache_interval=every)
    assert len(kinds) == len(steps)
    full: StepKind | None = None
    shallow_since = 0
    for step, kind in zip(steps, kinds, strict=True):
        inside = interval is None or interval[0] <= step / 1000 <= interval[1]
        assert kind.guided == (guided and inside)
        if kind.shallow:
            shallow_since += 1
            assert full is not None
            assert full.guided or not kind.guided
            assert shallow_since < every
        else:
            full, shallow_since = kind, 0


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.7, 0.3), (-0.1, 0.5), (0.2, 1.5), (0.2,), "ab"])
def test_intervals_out_of_order_are_refused(interval: object) -> None:
    with pytest.raises(InvalidInputError, match="guidance_interval"):
        plan_steps([1], 1000, guided=True, guidance_interval=interval)  # type: ignore[arg-type]


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_cache_intervals_below_one_are_refused(every: object) -> None:
    with pytest.raises(InvalidInputError, match="cache_interval"):
        plan_steps([1], 1000, guided=True, cache_interval=every)  # type: ignore[arg-type]


def test_outside_the_interval_the_network_sees_the_conditional_half_alone() -> None:
    process = SpacedDiffusion(
        space_timesteps(1000, "8"), betas=get_named_beta_schedule("squaredcos_cap_v2", 1000)
    )
    seen: list[tuple[int, int]] = []

    def network(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append((int(timesteps[0]), len(x)))
        return torch.cat([0.5 * x, torch.zeros_like(x)], dim=1)

    seeds = torch.tensor([1, 2])
    loop = SamplingLoop(
        network, process, seeds, (3, 8, 8), guidance_scale=4.0, guidance_interval=(0.25, 0.75), rule="ddim"
    )
    got = loop.run()
    assert [width for _, width in seen] == [4 if 0.25 <= step / 1000 <= 0.75 else 2 for step, _ in seen]
    # This network answers both halves alike, so that guidance, and leaving it out, changes nothing.
    want = SamplingLoop(network, process, seeds, (3, 8, 8), rule="ddim").run()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
