"""One seed for each image, from a seed, a list of seeds, or generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from glide_fast.diffusion.noise import SEED_LIMIT
from glide_fast.errors import invalid
from glide_fast.pipelines.checks import require_integer
from glide_fast.runtime.fair_lock import FairLock

Seed: TypeAlias = int | Sequence[int]
Generator: TypeAlias = torch.Generator | Sequence[torch.Generator]

# Drawn seeds stay exact in JSON readers that keep numbers in double precision.
_DRAWN_LIMIT = 2**53

_drawing = FairLock()
"""One call draws its seeds at a time: two pipelines may share a generator, or draw from torch's global one."""


def resolve_seeds(seed: Seed | None, generator: Generator | None, count: int) -> list[int]:
    """Seeds of ``count`` images.

    Args:
        seed: an integer in [0, 2^63) for the first image, counted up for the next ones; or a list, one for each image.
        generator: draws a seed for each image; or a list, one for each image. With neither, torch's global generator draws, so
            ``torch.manual_seed`` makes a script repeatable.

    Raises:
        InvalidInputError: for both at once, a list of another length, a seed out of range.
    """
    if seed is not None and generator is not None:
        raise invalid("seed", seed, "either seed or generator, not both")
    if generator is not None:
        return _drawn(generator, count)
    if seed is None:
        return _draw([None] * count)
    if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes)):
        if len(seed) != count:
            raise invalid("seed", seed, f"one seed an image: {count}")
        return [require_integer(f"seed[{i}]", value, 0, SEED_LIMIT - 1) for i, value in enumerate(seed)]
    first = require_integer("seed", seed, 0, SEED_LIMIT - count)
    return list(range(first, first + count))


def _drawn(generator: Generator, count: int) -> list[int]:
    if isinstance(generator, torch.Generator):
        return _draw([generator] * count)
    if not isinstance(generator, Sequence) or not all(
        isinstance(item, torch.Generator) for item in generator
    ):
        raise invalid("generator", generator, "a torch.Generator or a list of them")
    if len(generator) != count:
        raise invalid("generator", f"{len(generator)} generators", f"one an image: {count}")
    return _draw(generator)


def _draw(generators: Sequence[torch.Generator | None]) -> list[int]:
    """A seed from each generator, in order; None is torch's global generator."""
    return _drawing.join(lambda: [_draw_one(generator) for generator in generators])


def _draw_one(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(_DRAWN_LIMIT, (), generator=generator, device=device, dtype=torch.int64))
