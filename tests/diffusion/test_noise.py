"""The counter-based generator: published answers, a naive implementation, statistics, and what its values depend on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.diffusion.noise import (
    BASE_STREAMS,
    SEED_LIMIT,
    UPSAMPLER_STREAMS,
    philox4x32,
    philox_normal,
)
from glide_fast.errors import InvalidInputError

WORD = st.integers(0, 2**32 - 1)


def words(values: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value) for value in values)


def naive(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Python's unbounded integers, straight from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(right >> 32) ^ c[1] ^ k[0], right % 2**32, (left >> 32) ^ c[3] ^ k[1], left % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(c)


# philox4x32 with 10 rounds, from the file of known answers that Random123 publishes.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "want"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], want: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox4x32(words(counter), words(key))) == want
    assert naive(counter, key) == want


@settings(max_examples=50, deadline=None)
@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
def test_against_unbounded_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox4x32(words(counter), words(key))) == naive(counter, key)


@pytest.mark.parametrize("seed", [0, 5, 2**32, 2**40 + 17, SEED_LIMIT - 1])
def test_definition(seed: int) -> None:
    """Counter, key and Box-Muller as the module documents them, computed in double precision."""
    got = philox_normal(torch.tensor([seed]), 9, (2, 3), stream=2)[0].flatten()
    want = []
    for block in range(2):
        r = naive((block, 9, 2, 0), (seed % 2**32, seed >> 32))
        u = [word / 2**32 + 0.5**33 for word in r]
        for a, b in ((u[0], u[1]), (u[2], u[3])):
            radius = math.sqrt(-2 * math.log(a))
            want += [radius * math.cos(2 * math.pi * b), radius * math.sin(2 * math.pi * b)]
    torch.testing.assert_close(got, torch.tensor(want[:6]), rtol=1e-5, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch() -> None:
    seeds = torch.tensor([3, 2**62, 0, 77])
    together = philox_normal(seeds, 4, (3, 5, 5), stream=1)
    for i in range(4):
        assert torch.equal(together[i : i + 1], philox_normal(seeds[i : i + 1], 4, (3, 5, 5), stream=1))
    assert torch.equal(together.flip(0), philox_normal(seeds.flip(0), 4, (3, 5, 5), stream=1))


def test_step_as_tensor() -> None:
    seeds = torch.tensor([1, 2])
    want = philox_normal(seeds, 6, (3, 4, 4))
    assert torch.equal(philox_normal(seeds, torch.tensor(6), (3, 4, 4)), want)
    assert torch.equal(philox_normal(seeds, torch.tensor([6, 6], dtype=torch.int32), (3, 4, 4)), want)
    mixed = philox_normal(seeds, torch.tensor([6, 5]), (3, 4, 4))
    assert torch.equal(mixed[0], want[0])
    assert torch.equal(mixed[1], philox_normal(seeds, 5, (3, 4, 4))[1])


def test_seeds_steps_and_streams_are_uncorrelated() -> None:
    shape = (3, 32, 32)
    draws = [
        philox_normal(torch.tensor([seed]), step, shape, stream=stream).flatten()
        for seed, step, stream in itertools.product(
            (0, 1, 2**32), (0, 1), (*BASE_STREAMS, *UPSAMPLER_STREAMS)
        )
    ]
    correlation = torch.corrcoef(torch.stack(draws))
    assert len(set(BASE_STREAMS + UPSAMPLER_STREAMS)) == 4
    # 276 pairs of 3072 values: the largest of them is 5 standard errors off once in 6,000 trials.
    assert float((correlation - torch.eye(len(draws))).abs().max()) < 5 / math.sqrt(3 * 32 * 32)


def test_moments_and_tails() -> None:
    values = philox_normal(torch.arange(8), 0, (3, 128, 128)).flatten().double()
    count = values.numel()
    assert abs(float(values.mean())) < 4 / math.sqrt(count)
    assert abs(float(values.var()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float((values**3).mean())) < 4 * math.sqrt(15 / count)
    assert abs(float((values**4).mean()) - 3) < 4 * math.sqrt(96 / count)
    for bound in (1.0, 2.0, 3.0, 4.0):
        p = math.erfc(bound / math.sqrt(2))
        assert abs(float((values.abs() > bound).double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / count)
    lanes = values.view(-1, 4)
    assert float((torch.corrcoef(lanes.T) - torch.eye(4)).abs().max()) < 4 / math.sqrt(count / 4)
    squares = torch.corrcoef((lanes**2).T)  # a pair shares its radius, so this is where a mistake would show
    assert float((squares - torch.eye(4)).abs().max()) < 4 / math.sqrt(count / 4)


def test_values_are_finite_at_the_ends_of_the_range() -> None:
    """u is never 0: the smallest word gives 2^-33, whose normal is 6.8; the largest rounds to 1 and gives 0."""
    from glide_fast.diffusion.noise import _pair

    zero, most = torch.tensor([0]), torch.tensor([2**32 - 1])
    assert float(_pair(zero, zero)[0]) == pytest.approx(math.sqrt(66 * math.log(2)), rel=1e-6)
    assert float(_pair(most, zero)[0]) == 0


@pytest.mark.parametrize(
    "seeds", [torch.tensor([1], dtype=torch.int32), torch.tensor(1), torch.tensor([[1]]), torch.tensor([1.0])]
)
def test_bad_seeds(seeds: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="seeds"):
        philox_normal(seeds, 0, (3, 4, 4))


def test_bad_shape() -> None:
    with pytest.raises(InvalidInputError, match="shape"):
        philox_normal(torch.tensor([1]), 0, (3, 0, 4))


def test_a_negative_seed_is_its_64_bits() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    high = torch.tensor([0xFFFFFFFF])
    bits = philox4x32((zero, zero, zero, zero), (high, high))
    want = math.sqrt(-2 * math.log(int(bits[0]) * 2**-32 + 2**-33))
    drawn = philox_normal(torch.tensor([-1]), 0, (2,))[0]
    assert math.hypot(*drawn.tolist()) == pytest.approx(want, rel=1e-5)
