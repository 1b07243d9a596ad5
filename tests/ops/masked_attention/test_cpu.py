"""masked_attention's C++ kernel against fp64: masks, strides, what is never read. What it shares with text_attention's: there."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import amx_emulated

from glide_fast.errors import BackendError
from glide_fast.ops import masked_attention, native
from glide_fast.ops.attention import HEAD_SIZES
from glide_fast.ops.backends import force
from glide_fast.ops.masked_attention import cpu as masked_attention_cpu
from glide_fast.ops.masked_attention.arguments import Call
from glide_fast.ops.masked_attention.reference import reference

op = importlib.import_module("glide_fast.ops.masked_attention")

library = native.load()
needs_library = pytest.mark.skipif(library is None, reason=str(native.why_missing()))
ISAS = [] if library is None else library.isas()
HALF_UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
TYPES = list(HALF_UNIT)
KINDS = [(isa, dtype) for isa in ISAS for dtype in TYPES] + [
    (isa, torch.bfloat16) for isa in amx_emulated.ISAS
]
BEST = [("", dtype) for dtype in TYPES] + [(isa, torch.bfloat16) for isa in amx_emulated.ISAS]
NAN = float("nan")


def inside(values: torch.Tensor, gap: int = 0, around: float = NAN) -> torch.Tensor:
    """``[N, length, width]`` as a view of a larger buffer, with gaps between tokens and samples that hold ``around``."""
    n, length, width = values.shape
    token, sample = width + gap, (width + gap) * length + 3 * gap
    buffer = torch.full((7 + n * sample + 7,), around, dtype=values.dtype)
    return buffer.as_strided((n, length, width), (sample, token, 1), 7).copy_(values)


def qkv(
    n: int, heads: int, queries: int, keys: int, head: int = 64, dtype: torch.dtype = torch.float32,
    size: float = 1.0, gap: int = 0, seed: int = 0,
) -> list[torch.Tensor]:  # fmt: skip
    """Arguments whose logits have a standard deviation of ``size``."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, length, heads * head, generator=generator) for length in (queries, keys, keys)]
    parts[0] *= size
    return [inside(x.to(dtype), gap + i) for i, x in enumerate(parts)]


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *,
    causal: bool = False, lengths: torch.Tensor | None = None, **options: Any,
) -> torch.Tensor:  # fmt: skip
    call = Call(q, k, v, heads, causal, lengths)
    result: torch.Tensor = amx_emulated.run(masked_attention_cpu, call, **options)
    return result


def exact(arguments: list[torch.Tensor], heads: int, **mask: Any) -> torch.Tensor:
    result: torch.Tensor = reference(*(x.double() for x in arguments), heads, **mask)
    return result


def worst(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, relative to the larger of 1 and the value."""
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max())


def bound(v: torch.Tensor) -> float:
    """For logits of a few units: a rounding of the result, and in bf16 one of each weight, of which a query may see few."""
    roundings = 1.0 if v.dtype == torch.float32 else 1.1 + float(v.nan_to_num().abs().max())
    return roundings * HALF_UNIT[v.dtype] + 2.0**-20


@needs_library
@pytest.mark.parametrize("isa", [*ISAS, *amx_emulated.ISAS])
@settings(max_examples=60)
@given(data=st.data())
def test_error_is_at_most_twice_that_of_plain_torch(isa: str, data: st.DataObject) -> None:
    draw = data.draw
    causal = draw(st.booleans(), "causal")
    tokens = st.one_of(st.integers(1, 12), st.integers(1, 200))
    queries = draw(tokens, "queries")
    keys = queries if causal else draw(tokens, "keys")
    n, heads = draw(st.integers(1, 3), "samples"), draw(st.integers(1, 3), "heads")
    dtype = torch.bfloat16 if isa in amx_emulated.ISAS else draw(st.sampled_from(TYPES), "type")
    size = draw(st.sampled_from([0.0, 1.0, 1.0, 10.0, 300.0]), "size")
    arguments = qkv(
        *(n, heads, queries, keys, draw(st.sampled_from(HEAD_SIZES), "head size"), dtype, size),
        *(draw(st.sampled_from([0, 1, 5, 64]), "gap"), draw(st.integers(0, 2**32 - 1), "seed")),
    )  # fmt: skip
    mask: dict[str, Any] = {"causal": causal, "lengths": None}
    if draw(st.booleans(), "padded"):
        counts = draw(st.lists(st.integers(1, keys + 5), min_size=n, max_size=n), "lengths")
        mask["lengths"] = torch.tensor(
            counts, dtype=draw(st.sampled_from([torch.int32, torch.int64]), "integers")
        )
    truth = exact(arguments, heads, **mask)
    result = run(*arguments, heads, **mask, out=torch.full_like(truth, NAN, dtype=dtype), isa=isa)
    with force(masked_attention="sdpa"):
        plain = masked_attention(*arguments, heads, **mask)
    # Where torch happens to be lucky, as in text_attention's test_cpu.py.
    head = arguments[0].shape[2] // heads
    split = [x.double().unflatten(2, (heads, head)).transpose(1, 2) for x in arguments[:2]]
    largest = float((split[0] @ split[1].mT).abs().max()) / head**0.5
    floor = (16 + head**0.5 * largest) * 2.0**-24 + bound(arguments[2])
    assert worst(result, truth) <= max(2 * worst(plain, truth), floor)


@needs_library
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("tokens", "heads", "causal", "lengths"), [(77, 8, True, [12, 77]), (257, 12, False, None)]
)
def test_the_towers_of_clip_take_it_by_default(
    dtype: torch.dtype, tokens: int, heads: int, causal: bool, lengths: list[int] | None
) -> None:
    arguments = qkv(2, heads, tokens, tokens, dtype=dtype)
    mask: dict[str, Any] = {"causal": causal, "lengths": None if lengths is None else torch.tensor(lengths)}
    wanted = "cpu" if ISAS != ["portable"] else "sdpa" if dtype == torch.float32 else "reference"
    assert op.OP.choose(Call(*arguments, heads, **mask).facts()).name == wanted
    with force(masked_attention="cpu"):
        y = masked_attention(*arguments, heads, **mask)
    assert y.dtype == dtype and y.is_contiguous()
    assert worst(y, exact(arguments, heads, **mask)) <= bound(arguments[2])


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_keys_behind_a_length_are_never_read(isa: str, dtype: torch.dtype) -> None:
    lengths = torch.tensor([1, 63, 64, 97, 130])
    for causal in (False, True):
        arguments = qkv(5, 2, 130, 130, 32, dtype)
        truth = exact(arguments, 2, causal=causal, lengths=lengths)
        for x in arguments[1:]:
            x.masked_fill_((torch.arange(130) >= lengths[:, None])[..., None], NAN)
        y = run(*arguments, 2, causal=causal, lengths=lengths, isa=isa)
        assert worst(y, truth) <= bound(arguments[2])


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_a_query_does_not_see_what_comes_after_it(isa: str, dtype: torch.dtype) -> None:
    """Not a bit of it: with huge keys and values behind it the same bits come out, wherever tiles and blocks end."""
    q, k, v = qkv(1, 2, 200, 200, 32, dtype)
    together = run(q, k, v, 2, causal=True, isa=isa)
    for i in (0, 1, 47, 48, 63, 64, 95, 96, 150, 198):
        late_k, late_v = k.clone(), v.clone()
        late_k[:, i + 1 :], late_v[:, i + 1 :] = 1e18, 1e38
        y = run(q, late_k, late_v, 2, causal=True, isa=isa)
        assert torch.equal(y[:, : i + 1], together[:, : i + 1])


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_a_mask_that_hides_nothing_is_none(isa: str, dtype: torch.dtype) -> None:
    arguments = qkv(2, 2, 70, 110, 32, dtype)
    plain = run(*arguments, 2, isa=isa)
    for lengths in ([110, 110], [111, 2**40]):
        masked = run(*arguments, 2, lengths=torch.tensor(lengths), isa=isa)
        assert torch.equal(masked, plain)


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_logits_of_any_size_pick_the_largest_that_is_seen(isa: str, dtype: torch.dtype) -> None:
    for size in (1e6, 1e15, 1e30):
        q, k, v = qkv(1, 1, 150, 150, 32, dtype)
        q.zero_()[..., 0] = 1
        k.zero_()[..., 0] = torch.arange(150) * size / 150
        truth = exact([q, k, v], 1, causal=True)
        y = run(q, k, v, 1, causal=True, isa=isa)
        assert worst(y, truth) <= bound(v)


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), BEST)
def test_no_length_is_no_reason_to_leave_its_memory(isa: str, dtype: torch.dtype) -> None:
    """The result is undefined; keys before the first and behind the last would be NaN."""
    arguments = qkv(3, 2, 20, 20, dtype=dtype, gap=8)
    lengths = torch.tensor([0, -5, -(2**62)])
    assert run(*arguments, 2, lengths=lengths, isa=isa).isfinite().all()


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_nothing_is_written_outside_the_output(isa: str, dtype: torch.dtype) -> None:
    for tokens in (1, 63, 65):
        arguments = qkv(2, 3, tokens, tokens, 32, dtype)
        out = inside(torch.zeros(2, tokens, 96, dtype=dtype), 11, around=7.0)
        buffer = out.new_empty(0).set_(out.untyped_storage())
        run(*arguments, 3, causal=True, out=out, isa=isa)
        assert worst(out, exact(arguments, 3, causal=True)) <= bound(arguments[2])
        out.fill_(7.0)
        assert (buffer == 7.0).all()


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), BEST)
@pytest.mark.parametrize("causal", [False, True])
def test_neither_threads_nor_the_batch_change_a_bit(isa: str, dtype: torch.dtype, causal: bool) -> None:
    tokens = 300 if isa in amx_emulated.ISAS else 600
    arguments = qkv(3, 2, tokens, tokens, dtype=dtype)
    lengths = torch.tensor([tokens, 31, tokens // 2])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(run(*arguments, 2, causal=causal, lengths=lengths, isa=isa))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
    for i in range(3):
        one = slice(i, i + 1)
        alone = run(*(x[one] for x in arguments), 2, causal=causal, lengths=lengths[one], isa=isa)
        assert torch.equal(alone, results[0][one])


@needs_library
def test_slices_of_a_fused_projection_are_read_in_place() -> None:
    fused = torch.randn(2, 40, 3 * 128, generator=torch.Generator().manual_seed(0))
    slices = list(fused.split(128, dim=2))
    got = run(*slices, 2, causal=True)
    assert torch.equal(got, run(*(x.contiguous() for x in slices), 2, causal=True))


def reason(*call: Any, **mask: Any) -> str:
    return str({v.backend: v.reason for v in op.OP.explain(Call(*call, **mask).facts()).verdicts}["cpu"])


def test_it_declines_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(1, 2, 20, 20)
    across = v.transpose(1, 2).contiguous().transpose(1, 2)
    for call, why in (
        ((q, k, across, 2), "channels in q, k or v are not side by side"),
        ((q.half(), k.half(), v.half(), 2), "q is torch.float16"),
        ((q.double(), k.double(), v.double(), 2), "q is torch.float64"),
        ((q.to("meta"), k.to("meta"), v.to("meta"), 2), "the tensors are on meta"),
        ((q, k, v, 8), "heads are 16 wide; the kernel takes 32, 64, 128"),
        ((q[:, :0], k, v, 2), "no elements"),
        ((q, k, v.clone().requires_grad_(), 2), "gradients are wanted"),
    ):
        assert why in reason(*call)
        with force(masked_attention="cpu"), pytest.raises(BackendError, match=why):
            masked_attention(*call)
    for library, missing, why in (
        (None, "no C++ compiler", "no C++ compiler"),
        (object(), None, "older than the sources"),
    ):
        monkeypatch.setattr(op.OP, "_choices", {})
        monkeypatch.setattr(native, "why_missing", lambda missing=missing: missing)
        monkeypatch.setattr(native, "load", lambda library=library: library)
        assert why in str(masked_attention_cpu.supports(Call(q, k, v, 2).facts()))
    monkeypatch.setattr(native, "load", lambda: None)
    with pytest.raises(RuntimeError, match="called where it declines"):
        run(q, k, v, 2)


@needs_library
@pytest.mark.parametrize(
    "change",
    [{"heads": 0}, {"queries": 0}, {"keys": 0}, {"keys": 2}, {"head_size": 48}, {"dtype": 2}, {"v": (0, 0, 0)},
     {"y": (0, 0, 0)}, {"isa": "x"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_module_checks_what_it_is_given(change: dict[str, Any]) -> None:
    buffers = [torch.zeros(4096) for _ in range(4)]
    call: dict[str, Any] = {
        **{name: (x.data_ptr(), 192, 64) for name, x in zip("qkvy", buffers, strict=True)},
        "lengths": 0, "causal": True, "dtype": 0, "samples": 1, "heads": 2, "head_size": 32, "queries": 3, "keys": 3,
        "threads": 1,
    }  # fmt: skip
    assert library is not None
    library.masked_attention(**call)
    with pytest.raises(ValueError, match=r"masked_attention:|instruction set"):
        library.masked_attention(**{**call, **change})
