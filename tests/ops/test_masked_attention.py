"""The contract of masked_attention against torch's own attention and against attention written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glide_fast.errors import InvalidInputError
from glide_fast.ops.masked_attention import masked_attention


def qkv(
    n: int, queries: int, keys: int, width: int, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n + queries + keys + width)
    return [
        torch.randn(n, length, width, generator=generator, dtype=dtype) for length in (queries, keys, keys)
    ]


def written_out(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool, lengths: Any
) -> torch.Tensor:
    size = q.shape[-1] // heads
    out = torch.empty_like(q)
    for n in range(q.shape[0]):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(q.shape[1]):
                seen = k.shape[1] if lengths is None else int(lengths[n])
                seen = min(seen, i + 1) if causal else seen
                weights = torch.softmax(k[n, :seen, part] @ q[n, i, part] / size**0.5, dim=0)
                out[n, i, part] = weights @ v[n, :seen, part]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [1, 4, 7]])
def test_against_attention_written_out(causal: bool, lengths: list[int] | None) -> None:
    q, k, v = qkv(3, 7, 7, 10)
    given = None if lengths is None else torch.tensor(lengths)
    got = masked_attention(q, k, v, 2, causal=causal, lengths=given)
    torch.testing.assert_close(got, written_out(q, k, v, 2, causal, lengths))


def test_queries_and_keys_may_differ_in_number_and_strides_do_not_matter() -> None:
    q, k, v = qkv(2, 3, 9, 8)
    got = masked_attention(q, k, v, 4, lengths=torch.tensor([9, 2], dtype=torch.int32))
    torch.testing.assert_close(got, written_out(q, k, v, 4, False, [9, 2]))
    strided = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in (q, k, v)]
    torch.testing.assert_close(masked_attention(*strided, 4, lengths=torch.tensor([9, 2])), got)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_against_torch_in_low_precision(dtype: torch.dtype) -> None:
    q, k, v = qkv(2, 33, 33, 64, dtype)
    got = masked_attention(q, k, v, 4, causal=True)
    assert got.dtype == dtype
    split = [x.double().unflatten(-1, (4, 16)).transpose(1, 2) for x in (q, k, v)]
    want = F.scaled_dot_product_attention(*split, is_causal=True).transpose(1, 2).flatten(2)
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_gradients() -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2, 4, 4, 6))
    lengths = torch.tensor([4, 2])
    assert torch.autograd.gradcheck(
        lambda *x: masked_attention(*x, 2, causal=True, lengths=lengths), (q, k, v)
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q": torch.zeros(4, 8)}, "q"),
        ({"heads": 3}, "heads"),
        ({"heads": 0}, "heads"),
        ({"k": torch.zeros(2, 5, 6)}, "k"),
        ({"k": torch.zeros(2, 0, 8)}, "k"),
        ({"v": torch.zeros(2, 4, 8)}, "v"),
        ({"causal": True}, "causal"),
        ({"lengths": torch.tensor([1])}, "lengths"),
        ({"lengths": torch.tensor([1.0, 2.0])}, "lengths"),
    ],
)
def test_bad_arguments(change: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {
        "q": torch.zeros(2, 3, 8),
        "k": torch.zeros(2, 5, 8),
        "v": torch.zeros(2, 5, 8),
        "heads": 2,
    }
    with pytest.raises(InvalidInputError, match=f"^{named}"):
        masked_attention(**(arguments | change))
