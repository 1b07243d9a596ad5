"""Which steps of a loop are guided, and which are shallow.

To guide only some steps, or to compute some steps without the deep levels of the network, takes less time than all steps in
full. Both are off by default; both change the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

from glide_fast.errors import invalid


class StepKind(NamedTuple):
    """How one step is computed."""

    guided: bool  # with guidance, over a doubled batch; otherwise only the conditional half is computed
    shallow: bool  # reuses the deep features of the last full step


Interval = tuple[float, float]


def check_interval(interval: Interval | None, argument: str = "guidance_interval") -> Interval | None:
    """``interval`` as two floats; InvalidInputError unless it is None, or in order two numbers 0 <= low < high <= 1."""
    if interval is None:
        return None
    # A set or a dict has no order, and an iterator can be read only once.
    bounds = interval if isinstance(interval, (list, tuple)) else ()
    numbers = all(isinstance(bound, Real) and not isinstance(bound, bool) for bound in bounds)
    if len(bounds) != 2 or not numbers or not 0 <= bounds[0] < bounds[1] <= 1:
        raise invalid(argument, interval, "two numbers (low, high) with 0 <= low < high <= 1, or None")
    return float(bounds[0]), float(bounds[1])


def plan_steps(
    timesteps: Sequence[int],
    process_steps: int,
    *,
    guided: bool,
    guidance_interval: Interval | None = None,
    cache_interval: int = 1,
) -> list[StepKind]:
    """How every step of a loop is computed, in the order of the steps.

    Args:
        timesteps: of the original process, in the order of the steps (falling).
        process_steps: how many timesteps the original process has.
        guided: whether there is guidance at all.
        guidance_interval: guide only where ``timestep / process_steps`` lies in [low, high]; elsewhere guidance mostly costs
            variety (Kynkäänniemi et al. 2024, in noise levels). None guides everywhere.
        cache_interval: compute every n-th step in full and reuse its deep features in the steps between (Ma et al. 2023,
            DeepCache); 1 computes all in full. The first step and the first guided one are full in any case.

    Raises:
        InvalidInputError: for an interval out of order, or a cache interval below 1.
    """
    check_interval(guidance_interval)
    if not isinstance(cache_interval, int) or isinstance(cache_interval, bool) or cache_interval < 1:
        raise invalid("cache_interval", cache_interval, "an integer from 1 (every step in full)")
    kinds: list[StepKind] = []
    since_full, full_was_guided = cache_interval, False
    for timestep in timesteps:
        here = guided
        if guided and guidance_interval is not None:
            low, high = guidance_interval
            here = low <= timestep / process_steps <= high
        shallow = since_full < cache_interval and (full_was_guided or not here)
        kinds.append(StepKind(here, shallow))
        if shallow:
            since_full += 1
        else:
            since_full, full_was_guided = 1, here
    return kinds
