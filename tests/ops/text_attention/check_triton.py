"""text_attention's Triton kernel against fp64, interpreted or on a device: test_triton.py runs this in a process of its own."""

from __future__ import annotations

import pytest
import torch
from glide_fast.kernels import text_attention as kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interpreter import teach_bfloat16
from support.triton_device import DEVICE

from glide_fast.ops import text_attention
from glide_fast.ops.backends import force
from glide_fast.ops.text_attention import triton as backend
from glide_fast.ops.text_attention.arguments import Call
from glide_fast.ops.text_attention.reference import reference
from glide_fast.ops.triton_runtime import interpreting

HALF_UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
if interpreting():
    teach_bfloat16()


def packed(
    n: int, width: int, tokens: int, dtype: torch.dtype, channels_last: bool, seed: int
) -> torch.Tensor:
    """``[n, width, tokens]`` of normal values inside a larger buffer of NaN."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, tokens, width) if channels_last else (n, width, tokens)
    values = torch.randn(shape, generator=generator)
    arena = torch.full([size + 3 for size in shape], float("nan")).to(dtype).to(DEVICE)
    inner = arena[tuple(slice(1, size + 1) for size in shape)]
    inner.copy_(values)
    return inner.transpose(1, 2) if channels_last else inner


def launched(
    qkv: torch.Tensor, heads: int, text: torch.Tensor | None, cut: kernels.Tiles | None, channels_last: bool
) -> torch.Tensor:
    """The kernel's result, out of an output full of NaN between canaries."""
    n, width, tokens = qkv.shape
    shape = (n, tokens, width // 3) if channels_last else (n, width // 3, tokens)
    arena = torch.full([size + 2 for size in shape], 7.0, dtype=qkv.dtype, device=DEVICE)
    inner = arena[tuple(slice(1, size + 1) for size in shape)]
    out = inner.fill_(float("nan")).transpose(1, 2) if channels_last else inner.fill_(float("nan"))
    kernels.launch(qkv, out, heads, text, cut)
    result = out.clone()
    inner.fill_(7.0)
    assert bool((arena == 7).all()), "something was written outside the output"
    return result


def assert_as_good_as_plain_torch(
    result: torch.Tensor, qkv: torch.Tensor, heads: int, text: torch.Tensor | None
) -> None:
    truth = reference(qkv.double(), heads, None if text is None else text.double())
    error = (result.double() - truth).abs().max()
    plain = (reference(qkv, heads, text).double() - truth).abs().max()
    largest = max(float(qkv.double().abs().max()), 1.0)
    # Where plain torch is lucky: one rounding of the weights, and one of a result that is no larger than the values.
    floor = (8 if qkv.dtype == torch.float32 else 1) * HALF_UNIT[qkv.dtype] * largest
    assert float(error) <= max(2 * float(plain), floor)


@settings(max_examples=80)
@given(
    n=st.integers(1, 2),
    heads=st.integers(1, 2),
    head=st.sampled_from([8, 20, 32, 64]),
    tokens=st.integers(1, 40),
    text_tokens=st.one_of(st.none(), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    channels_last=st.booleans(),
    text_channels_last=st.booleans(),
    cut=st.sampled_from(
        [None, kernels.Tiles(16, 16, 4, 1), kernels.Tiles(16, 32, 4, 2), kernels.Tiles(32, 16, 4, 1)]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_error_is_at_most_twice_that_of_plain_torch(
    n: int,
    heads: int,
    head: int,
    tokens: int,
    text_tokens: int | None,
    dtype: torch.dtype,
    channels_last: bool,
    text_channels_last: bool,
    cut: kernels.Tiles | None,
    seed: int,
) -> None:
    qkv = packed(n, heads * 3 * head, tokens, dtype, channels_last, seed)
    text = None
    if text_tokens is not None:
        text = packed(n, heads * 2 * head, text_tokens, dtype, text_channels_last, seed + 1)
    result = launched(qkv, heads, text, cut, channels_last)
    assert_as_good_as_plain_torch(result, qkv, heads, text)


@pytest.mark.parametrize("head", [32, 64, 128])
@pytest.mark.parametrize("tokens", [64, 77])
def test_shipped_tiles_through_the_public_op(head: int, tokens: int) -> None:
    qkv = packed(1, 2 * 3 * head, tokens, torch.float16, True, head)
    text = packed(1, 2 * 2 * head, 128, torch.float16, False, head + 1)
    with force(text_attention="triton"):
        result = text_attention(qkv, 2, text)
    assert result.stride(1) == 1, "a channels-last input gives a channels-last output"
    assert_as_good_as_plain_torch(result, qkv, 2, text)


def one_head(tokens: int, text_tokens: int, dtype: torch.dtype = torch.float16) -> Call:
    return Call(
        packed(1, 3 * 64, tokens, dtype, True, tokens),
        1,
        packed(1, 2 * 64, text_tokens, dtype, True, text_tokens) if text_tokens else None,
    )


@pytest.mark.parametrize(("tokens", "text_tokens"), [(128, 128), (64, 128), (128, 0), (77, 20)])
def test_every_plan_is_right(tokens: int, text_tokens: int) -> None:
    """With whole tiles of both runs of keys, of one, and with ragged ones."""
    call = one_head(tokens, text_tokens)
    found = list(backend.plans(call))
    default = kernels.tiles(1, tokens, 64, 2)
    assert found[0] == default._asdict() and len(found) > 1
    assert len({tuple(plan.items()) for plan in found}) == len(found)
    for plan in found:
        if plan["stages"] in (1, 2) and not plan["registers"]:  # the interpreter knows neither
            assert_as_good_as_plain_torch(backend.run(call, plan=plan), call.qkv, 1, call.encoder_kv)


@pytest.mark.parametrize("text_tokens", [1, 64, 70])
def test_text_first_then_the_image(text_tokens: int) -> None:
    """Keys of a run that is read twice, or not at all, would show: all of one run are much larger than those of the other."""
    for scale_text, scale_image in ((8.0, 0.1), (0.1, 8.0)):
        call = one_head(128, text_tokens)
        assert call.encoder_kv is not None
        call.encoder_kv.mul_(scale_text)
        call.qkv[:, 64:].mul_(scale_image)
        assert_as_good_as_plain_torch(backend.run(call), call.qkv, 1, call.encoder_kv)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queries": 48}, "queries=48"),
        ({"keys": 8}, "keys=8"),
        ({"warps": 32}, "warps=32"),
        ({"stages": 0}, "stages=0"),
        ({"registers": 100}, "registers=100"),
        ({"keys": 256, "stages": 8}, "shared memory"),
        ({"tiles": 1}, "accepted: integers for queries, keys, warps, stages, registers"),
        ({"keys": "64"}, "accepted: integers"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change: dict[str, int | str | bool], said: str) -> None:
    call = one_head(64, 0)
    plan = next(iter(backend.plans(call)))
    with pytest.raises(ValueError, match=said):
        backend.run(call, plan=plan | change)


def test_tiles_for_full_grids() -> None:
    qkv = packed(1, 3 * 64, 130, torch.float16, False, 0)
    result = launched(qkv, 1, None, kernels.tiles(10**6, 1024, 64, 2), False)
    assert_as_good_as_plain_torch(result, qkv, 1, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sharp_softmax_and_values_near_the_end_of_the_range(dtype: torch.dtype) -> None:
    """Logits of hundreds, whose products overflow fp16; values of 6e4, whose sum would."""
    qkv = packed(1, 3 * 32, 40, dtype, True, 1)
    qkv[:, :64] *= 12
    qkv[:, 64:] = qkv[:, 64:].sign() * 6e4
    result = launched(qkv, 1, None, kernels.Tiles(16, 16, 4, 1), True)
    truth = reference(qkv.double(), 1)
    assert bool(result.isfinite().all())
    # A logit of 1000 in fp32 is known to 2 ** -14, and so is its exponential, relatively.
    assert float((result.double() - truth).abs().max()) <= 6e4 * (2.0**-12 + HALF_UNIT[dtype])


@pytest.mark.parametrize("channels_last", [False, True])
def test_runs_agree_to_the_bit(channels_last: bool) -> None:
    """On a device nothing orders the programs, and loads run ahead of the products."""
    heads, head, tokens, text_tokens = (2, 32, 40, 7) if interpreting() else (6, 64, 1024, 128)
    dtype = torch.float32 if interpreting() else torch.float16
    qkv = packed(2, heads * 3 * head, tokens, dtype, channels_last, 0)
    text = packed(2, heads * 2 * head, text_tokens, dtype, channels_last, 1)
    first = launched(qkv, heads, text, None, channels_last)
    for _ in range(1 if interpreting() else 20):
        assert torch.equal(launched(qkv, heads, text, None, channels_last), first)
