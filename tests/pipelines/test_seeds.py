"""One seed an image, whatever way it is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.threads import in_threads

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines.seeds import resolve_seeds


def test_an_integer_counts_up() -> None:
    assert resolve_seeds(7, None, 3) == [7, 8, 9]
    assert resolve_seeds(2**63 - 2, None, 2) == [2**63 - 2, 2**63 - 1]
    assert resolve_seeds(np.int64(0), None, 1) == [0]  # type: ignore[arg-type]


def test_a_list_is_taken_as_it_is() -> None:
    assert resolve_seeds([5, 0, 5], None, 3) == [5, 0, 5]


def test_one_generator_or_several() -> None:
    one = resolve_seeds(None, torch.Generator().manual_seed(4), 3)
    assert one == resolve_seeds(None, torch.Generator().manual_seed(4), 3)
    assert len(set(one)) == 3
    several = resolve_seeds(None, [torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)], 2)
    assert several == [one[0]] * 2
    assert all(0 <= seed < 2**53 for seed in one)


@pytest.mark.parametrize("shared", [True, False])
def test_threads_draw_the_seeds_of_a_call_in_a_row(shared: bool) -> None:
    """From a generator that they share, or from torch's global one."""
    calls, count = 40, 20
    torch.manual_seed(4)
    want = resolve_seeds(None, torch.Generator().manual_seed(4) if shared else None, calls * count)
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(4) if shared else None
    got = in_threads(4, [lambda: resolve_seeds(None, generator, count)] * calls)
    assert sorted(got) == sorted(want[i : i + count] for i in range(0, calls * count, count))


@pytest.mark.parametrize(
    ("seed", "generator", "named"),
    [
        (-1, None, "seed"),
        (2**63, None, "seed"),
        (2**63 - 1, None, "seed"),  # the second image's would be out of range
        (1.0, None, "seed"),
        (True, None, "seed"),
        ("1", None, "seed"),
        ([1], None, "seed"),
        ([1, 2, 3], None, "seed"),
        ([1, -1], None, r"seed\[1\]"),
        ([1, None], None, r"seed\[1\]"),
        (None, 3, "generator"),
        (None, [torch.Generator()], "generator"),
        (None, [torch.Generator(), 3], "generator"),
        (1, torch.Generator(), "seed"),
    ],
)
def test_bad_input(seed: Any, generator: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{named}: "):
        resolve_seeds(seed, generator, 2)
