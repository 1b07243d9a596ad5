"""Times of long calls (whole loops, whole pictures), taken in turns; each is a sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from glide_fast.bench.timing import Timing, summarise


def in_turns(
    calls: Mapping[str, Callable[[], object]], device: str, samples: int, seconds: float
) -> dict[str, Timing]:
    """Time each call ``samples`` times, one round after the other; no round but the first begins after ``seconds``.

    The calls are warm already: what only the first one does (capturing, say) is not in these times.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    start = time.monotonic()
    for taken in range(samples):
        if taken and time.monotonic() - start > seconds:
            break
        # Every other round the other way round.
        for name in list(calls)[:: 1 if taken % 2 == 0 else -1]:
            begin = time.perf_counter()
            calls[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            found[name].append(time.perf_counter() - begin)
    return {name: _summary(taken) for name, taken in found.items()}


def _summary(seconds: list[float]) -> Timing:
    if len(seconds) > 1:
        return summarise(seconds)
    only = seconds[0] * 1e6
    return Timing(only, only, only, only, 1)
