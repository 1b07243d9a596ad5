"""masked_attention's Triton kernel against fp64, interpreted or on a device: test_triton.py runs this in its own process."""

from __future__ import annotations

import pytest
import torch
from glide_fast.kernels import masked_attention as kernels
from glide_fast.kernels.text_attention import Tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import teach_bfloat16
from support.triton_device import DEVICE

from glide_fast.ops import masked_attention
from glide_fast.ops.backends import force
from glide_fast.ops.masked_attention.reference import reference
from glide_fast.ops.triton_runtime import interpreting

HALF_UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
ORDERS = [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)]
if interpreting():
    teach_bfloat16()


def inside_nan(shape: tuple[int, ...], order: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Normal values inside a larger buffer of NaN, whose dimensions lie in memory in this order."""
    arena = torch.full([shape[axis] + 3 for axis in order], float("nan")).to(dtype).to(DEVICE)
    inner = arena[tuple(slice(1, shape[axis] + 1) for axis in order)]
    inner = inner.permute([order.index(axis) for axis in range(3)])
    return inner.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def tensors(
    n: int, queries: int, keys: int, width: int, dtype: torch.dtype, order: tuple[int, ...], seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v; where the order is not the plain one, k and v lie in memory in different ones."""
    shape = (n, keys, width)
    return (
        inside_nan((n, queries, width), order, dtype, seed),
        inside_nan(shape, order[::-1] if order != ORDERS[0] else order, dtype, seed + 1),
        inside_nan(shape, order, dtype, seed + 2),
    )


def launched(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
    cut: Tiles | None = None,
) -> torch.Tensor:
    """The kernel's result, out of an output full of NaN between canaries."""
    arena = torch.full([size + 2 for size in q.shape], 7.0, dtype=q.dtype, device=DEVICE)
    inner = arena[tuple(slice(1, size + 1) for size in q.shape)].fill_(float("nan"))
    kernels.launch(q, k, v, inner, heads, causal, lengths, cut)
    result = inner.clone()
    inner.fill_(7.0)
    assert bool((arena == 7).all()), "something was written outside the output"
    return result


def assert_as_good_as_plain_torch(
    result: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    causal: bool,
    lengths: torch.Tensor | None,
) -> None:
    mask = {"causal": causal, "lengths": lengths}
    truth = reference(q.double(), k.double(), v.double(), heads, **mask)
    error = (result.double() - truth).abs().max()
    plain = (reference(q, k, v, heads, **mask).double() - truth).abs().max()
    largest = max(float(v.double().abs().max()), 1.0)
    # Where plain torch is lucky: one rounding of the weights, and one of a result that is no larger than the values.
    floor = (8 if q.dtype == torch.float32 else 1) * HALF_UNIT[q.dtype] * largest
    assert float(error) <= max(2 * float(plain), floor)


@settings(max_examples=80)
@given(
    n=st.integers(1, 3),
    heads=st.integers(1, 2),
    head=st.sampled_from([20, 32, 64, 128]),
    queries=st.integers(1, 40),
    keys=st.one_of(st.none(), st.integers(1, 40)),  # None: as many as queries, which a causal mask wants
    causal=st.booleans(),
    shortest=st.one_of(st.none(), st.integers(1, 40)),
    width_of_lengths=st.sampled_from([torch.int32, torch.int64]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    order=st.sampled_from(ORDERS),
    cut=st.sampled_from([None, Tiles(16, 16, 4, 1), Tiles(16, 32, 4, 2), Tiles(32, 16, 4, 1)]),
    seed=st.integers(0, 2**32 - 4),
)
def test_error_is_at_most_twice_that_of_plain_torch(
    n: int,
    heads: int,
    head: int,
    queries: int,
    keys: int | None,
    causal: bool,
    shortest: int | None,
    width_of_lengths: torch.dtype,
    dtype: torch.dtype,
    order: tuple[int, ...],
    cut: Tiles | None,
    seed: int,
) -> None:
    causal = causal and keys is None
    keys = queries if keys is None else keys
    lengths = None
    if shortest is not None:
        # From the shortest up, every second element of a larger tensor: strides hold for lengths as well.
        spaced = torch.arange(2 * n, device=DEVICE).add(shortest).clamp(max=keys).to(width_of_lengths)
        lengths = spaced[::2]
    q, k, v = tensors(n, queries, keys, heads * head, dtype, order, seed)
    result = launched(q, k, v, heads, causal, lengths, cut)
    assert_as_good_as_plain_torch(result, q, k, v, heads, causal, lengths)


@pytest.mark.parametrize("head", [32, 64, 128])
@pytest.mark.parametrize(("tokens", "lengths"), [(64, None), (77, [2, 65])])
@pytest.mark.parametrize("causal", [False, True])
def test_shipped_tiles_through_the_public_op(
    head: int, tokens: int, lengths: list[int] | None, causal: bool
) -> None:
    q, k, v = tensors(2, tokens, tokens, head, torch.float16, ORDERS[0], head)
    given = None if lengths is None else torch.tensor(lengths, device=DEVICE)
    with force(masked_attention="triton"):
        result = masked_attention(q, k, v, 1, causal=causal, lengths=given)
    assert result.is_contiguous()
    assert_as_good_as_plain_torch(result, q, k, v, 1, causal, given)


@pytest.mark.parametrize("causal", [False, True])
def test_tiles_for_full_grids(causal: bool) -> None:
    cut = kernels.tiles(10**6, 1024, 64, 2)
    for tokens in (128, 130):
        q, k, v = tensors(1, tokens, tokens, 64, torch.float16, ORDERS[0], tokens)
        result = launched(q, k, v, 1, causal, None, cut)
        assert_as_good_as_plain_torch(result, q, k, v, 1, causal, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("causal", [False, True])
def test_what_no_query_sees_is_never_read(dtype: torch.dtype, causal: bool) -> None:
    """Keys and values behind a sample's length are NaN: read into a product, even by a weight of 0, they would show."""
    q, k, v = tensors(2, 40, 40, 32, dtype, ORDERS[0], 3)
    lengths = torch.tensor([5, 33], device=DEVICE)
    clean = [x.clone() for x in (q, k, v)]
    for x in (k, v):
        x[0, 5:] = float("nan")
        x[1, 33:] = float("nan")
    result = launched(q, k, v, 1, causal, lengths, Tiles(16, 16, 4, 1))
    assert_as_good_as_plain_torch(result, *clean, 1, causal, lengths)


def test_whole_tiles_of_the_future_are_skipped() -> None:
    """Causal, in tiles of 16: what the first 16 queries make does not depend on NaN in the keys from 16 on."""
    q, k, v = tensors(1, 48, 48, 32, torch.float16, ORDERS[0], 4)
    clean = [x.clone() for x in (q, k, v)]
    k[:, 16:] = v[:, 16:] = float("nan")
    result = launched(q, k, v, 1, True, None, Tiles(16, 16, 4, 1))
    assert bool(result[:, 16:].isnan().all())
    truth = reference(*(x.double() for x in clean), 1, causal=True)
    torch.testing.assert_close(result[:, :16].double(), truth[:, :16], rtol=4e-3, atol=4e-3)


def test_lengths_beyond_the_keys_mean_all_of_them() -> None:
    q, k, v = tensors(1, 7, 20, 32, torch.float32, ORDERS[0], 5)
    lengths = torch.tensor([10**10], device=DEVICE)
    torch.testing.assert_close(launched(q, k, v, 1, False, lengths), launched(q, k, v, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sharp_softmax_and_values_near_the_end_of_the_range(dtype: torch.dtype) -> None:
    """Logits of hundreds, whose products overflow fp16; values of 6e4, whose sum would."""
    q, k, v = tensors(1, 40, 40, 32, dtype, ORDERS[0], 1)
    q *= 12
    k *= 12
    v.copy_(v.sign() * 6e4)
    result = launched(q, k, v, 1, True, None, Tiles(16, 16, 4, 1))
    truth = reference(q.double(), k.double(), v.double(), 1, causal=True)
    assert bool(result.isfinite().all())
    # A logit of 1000 in fp32 is known to 2 ** -14, and so is its exponential, relatively.
    assert float((result.double() - truth).abs().max()) <= 6e4 * (2.0**-12 + HALF_UNIT[dtype])


@pytest.mark.parametrize("causal", [False, True])
def test_runs_agree_to_the_bit(causal: bool) -> None:
    """On a device nothing orders the programs, and loads run ahead of the products."""
    heads, head, length = (2, 32, 40) if interpreting() else (12, 64, 257)
    dtype = torch.float32 if interpreting() else torch.float16
    q, k, v = tensors(2, length, length, heads * head, dtype, ORDERS[0], 0)
    lengths = torch.tensor([length, length // 3], device=DEVICE)
    first = launched(q, k, v, heads, causal, lengths)
    for _ in range(1 if interpreting() else 20):
        assert torch.equal(launched(q, k, v, heads, causal, lengths), first)
