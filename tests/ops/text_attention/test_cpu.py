"""text_attention's C++ kernel against fp64, and against torch's own attention of the same precision."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import amx_emulated

from glide_fast.errors import BackendError
from glide_fast.ops import attention, native, text_attention
from glide_fast.ops.attention import HEAD_SIZES
from glide_fast.ops.backends import force
from glide_fast.ops.text_attention import cpu as text_attention_cpu
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.arguments import LONG, Call
from glide_fast.ops.text_attention.reference import reference

op = importlib.import_module("glide_fast.ops.text_attention")

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


def inside(
    values: torch.Tensor, token_gap: int = 0, sample_gap: int = 0, around: float = NAN
) -> torch.Tensor:
    """``[N, length, width]`` as a view ``[N, width, length]`` of a larger buffer, with gaps that hold ``around``."""
    n, length, width = values.shape
    token, sample = width + token_gap, (width + token_gap) * length + sample_gap
    buffer = torch.full((7 + n * sample + 7,), around, dtype=values.dtype)
    view = buffer.as_strided((n, width, length), (sample, 1, token), 7)
    return view.copy_(values.transpose(1, 2))


def inputs(
    n: int,
    heads: int,
    tokens: int,
    text_tokens: int,
    head: int = 64,
    dtype: torch.dtype = torch.float32,
    size: float = 1.0,
    gaps: tuple[int, int] = (0, 0),
    seed: int = 0,
) -> tuple[torch.Tensor, int, torch.Tensor | None]:
    """Arguments whose logits have a standard deviation of ``size``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(length: int, parts: int) -> torch.Tensor:
        values = torch.randn(n, length, heads, parts, head, generator=generator)
        if parts == 3:
            values[:, :, :, 0] *= size
        return inside(values.reshape(n, length, heads * parts * head).to(dtype), *gaps)

    return normal(tokens, 3), heads, normal(text_tokens, 2) if text_tokens else None


def run(qkv: torch.Tensor, heads: int, text: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    result: torch.Tensor = amx_emulated.run(text_attention_cpu, Call(qkv, heads, text), **options)
    return result


def exact(qkv: torch.Tensor, heads: int, text: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = reference(qkv.double(), heads, None if text is None else text.double())
    return result


def plain(qkv: torch.Tensor, heads: int, text: torch.Tensor | None) -> torch.Tensor:
    return packed_heads.merge(F.scaled_dot_product_attention(*packed_heads.split(qkv, heads, text)))


def largest_logit(qkv: torch.Tensor, heads: int, text: torch.Tensor | None) -> float:
    q, k, _ = packed_heads.split(qkv.double(), heads, None if text is None else text.double())
    return float((q @ k.mT).abs().max()) / q.shape[-1] ** 0.5


def worst(y: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error, relative to the larger of 1 and the value."""
    return float(((y.double() - truth).abs() / truth.abs().clamp(min=1)).max())


def poisoned(qkv: torch.Tensor) -> torch.Tensor:
    n, width, tokens = qkv.shape
    return torch.full((n, tokens, width // 3), NAN, dtype=qkv.dtype).transpose(1, 2)


@needs_library
@pytest.mark.parametrize("isa", [*ISAS, *amx_emulated.ISAS])
@settings(max_examples=60)
@given(
    n=st.integers(1, 3),
    heads=st.integers(1, 3),
    tokens=st.one_of(st.integers(1, 12), st.integers(1, 200)),
    text_tokens=st.one_of(st.just(0), st.integers(1, 8), st.integers(1, 150)),
    head=st.sampled_from(HEAD_SIZES),
    dtype=st.sampled_from(TYPES),
    size=st.sampled_from([0.0, 1.0, 1.0, 10.0, 300.0]),
    gaps=st.tuples(st.sampled_from([0, 1, 5, 64]), st.sampled_from([0, 3, 32])),
    seed=st.integers(0, 2**32 - 1),
)
def test_error_is_at_most_twice_that_of_plain_torch(
    isa: str,
    n: int,
    heads: int,
    tokens: int,
    text_tokens: int,
    head: int,
    dtype: torch.dtype,
    size: float,
    gaps: tuple[int, int],
    seed: int,
) -> None:
    if isa in amx_emulated.ISAS:
        n, heads, dtype = min(n, 2), min(heads, 2), torch.bfloat16
    arguments = inputs(n, heads, tokens, text_tokens, head, dtype, size, gaps, seed)
    truth = exact(*arguments)
    result = run(*arguments, out=poisoned(arguments[0]), isa=isa)
    # Where torch happens to be lucky: a logit is a sum of `head` products, rounded as often, and an error in it is one of its
    # exponential; with bf16, a rounding of the result and of its weights.
    floor = (16 + head**0.5 * largest_logit(*arguments)) * 2.0**-24
    floor += 1.2 * 2.0**-8 if dtype == torch.bfloat16 else 0.0
    assert worst(result, truth) <= max(2 * worst(plain(*arguments), truth), floor)


@needs_library
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("n", "heads", "tokens", "text_tokens"),
    [(2, 6, 1024, 128), (2, 9, 256, 128), (2, 12, 64, 128), (1, 12, 256, 128), (2, 8, 128, 0)],
)
def test_glide_shapes_through_the_public_op(
    n: int, heads: int, tokens: int, text_tokens: int, dtype: torch.dtype
) -> None:
    arguments = inputs(n, heads, tokens, text_tokens, dtype=dtype)
    with force(text_attention="cpu"):
        y = text_attention(*arguments)
    assert y.dtype == dtype and y.stride() == (tokens * heads * 64, 1, heads * 64)
    truth = exact(*arguments)
    assert worst(y, truth) <= max(2 * worst(plain(*arguments), truth), 8 * 2.0**-24)


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_logits_of_any_size_pick_the_largest(isa: str, dtype: torch.dtype) -> None:
    """Keys grow along the sequence, so every block raises the maximum by far more than an exponential of fp32 holds."""
    tokens, heads, head = 250, 1, 32
    for size in (1e6, 1e15, 1e30):
        qkv = torch.zeros(1, tokens, 3, head)
        qkv[:, :, 0, 0] = 1
        qkv[:, :, 1, 0] = torch.arange(tokens) * size / tokens
        qkv[:, :, 2] = torch.randn(tokens, head, generator=torch.Generator().manual_seed(0))
        qkv = qkv.to(dtype)
        last = qkv[0, :, 1, 0] == qkv[0, -1, 1, 0]  # bf16 cannot tell them all apart
        want = qkv[0, last, 2].double().mean(0)
        y = run(qkv.reshape(1, tokens, -1).transpose(1, 2), heads, isa=isa)
        assert worst(y[0].T, want) <= 1.2 * HALF_UNIT[dtype] + 2.0**-20
        # And falling, so that the first key is the one.
        qkv[:, :, 1] = qkv[:, :, 1].flip(1)
        y = run(qkv.reshape(1, tokens, -1).transpose(1, 2), heads, isa=isa)
        want = qkv[0, last.flip(0), 2].double().mean(0)
        assert worst(y[0].T, want) <= 1.2 * HALF_UNIT[dtype] + 2.0**-20


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_what_is_not_finite_spoils_no_more_than_it_must(isa: str, dtype: torch.dtype, value: float) -> None:
    """In a query its own token and head, in a key its head, in a value its channel of its head."""
    qkv, heads, text = inputs(2, 2, 100, 7, 32, dtype)
    for part, token in ((0, 70), (1, 99), (2, 3)):
        spoiled = qkv.clone()
        spoiled[1, 96 + 32 * part + 5, token] = value  # sample 1, head 1, channel 5
        y = run(spoiled, heads, text, isa=isa)
        expected = torch.zeros(2, 64, 100, dtype=torch.bool)
        where = {0: (slice(32, 64), 70), 1: (slice(32, 64), slice(None)), 2: (37, slice(None))}[part]
        expected[1][where] = True
        bad = ~y.isfinite()
        # An infinite key of weight 0 (a logit of minus infinity) is a key that is not there.
        assert torch.equal(bad, expected) if part != 1 or value != value else not (bad & ~expected).any()


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), KINDS)
def test_nothing_is_written_outside_the_output(isa: str, dtype: torch.dtype) -> None:
    for tokens in (1, 63, 65):
        arguments = inputs(2, 3, tokens, 5, 32, dtype)
        out = inside(torch.zeros(2, tokens, 96, dtype=dtype), 11, 13, around=7.0)
        buffer = out.new_empty(0).set_(out.untyped_storage())
        run(*arguments, out=out, isa=isa)
        assert worst(out, exact(*arguments)) <= 1.2 * HALF_UNIT[dtype] + 2.0**-20
        out.fill_(7.0)
        assert (buffer == 7.0).all()


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), BEST)
@pytest.mark.parametrize("shape", [(2, 3, 300, 50), (1, 1, 1024, 128), (2, 12, 64, 128)])
def test_the_number_of_threads_does_not_change_a_bit(
    shape: tuple[int, int, int, int], isa: str, dtype: torch.dtype
) -> None:
    n, heads, tokens, text_tokens = shape
    if isa in amx_emulated.ISAS:
        tokens //= 3
    arguments = inputs(n, heads, tokens, text_tokens, dtype=dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(run(*arguments, isa=isa))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_library
@pytest.mark.parametrize(("isa", "dtype"), BEST)
def test_a_query_depends_on_its_own_row_and_the_keys_only(isa: str, dtype: torch.dtype) -> None:
    qkv, heads, text = inputs(3, 2, 150, 20, dtype=dtype)
    assert text is not None
    together = run(qkv, heads, text, isa=isa)
    for i in range(3):
        assert torch.equal(run(qkv[i : i + 1], heads, text[i : i + 1], isa=isa), together[i : i + 1])
    # Other queries, the same keys and values.
    changed = qkv.unflatten(1, (heads, 3, 64)).clone()
    changed[:, :, 0, :, 1:] = 3.0
    changed = changed.permute(0, 4, 1, 2, 3).flatten(2).transpose(1, 2)
    y = run(changed, heads, text, isa=isa)
    assert torch.equal(y[:, :, 0], together[:, :, 0])


@needs_library
def test_an_empty_text_is_no_text() -> None:
    qkv, heads, _ = inputs(1, 2, 20, 0)
    nothing = torch.empty(1, 0, 2 * 2 * 64).transpose(1, 2)
    assert torch.equal(run(qkv, heads, nothing), run(qkv, heads))


@needs_library
def test_calls_at_the_same_time_do_not_disturb_each_other() -> None:
    calls = [inputs(1, 2, tokens, 30, seed=tokens) for tokens in (40, 70, 130, 190) * 8]
    wanted = [run(*call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda call: run(*call), calls))
    assert all(torch.equal(a, b) for a, b in zip(results, wanted, strict=True))


@needs_library
def test_its_memory_is_reused() -> None:
    resource = pytest.importorskip("resource", reason="the most memory used is known on Unix only")
    arguments = inputs(1, 4, 512, 128)
    for _ in range(3):
        run(*arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        run(*arguments)
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048
    )  # KiB; a call needs about a thousand


def reason(*call: Any) -> str:
    return str({v.backend: v.reason for v in op.OP.explain(Call(*call).facts()).verdicts}["cpu"])


def test_it_declines_with_a_reason() -> None:
    qkv, heads, text = inputs(1, 2, 20, 7)
    assert text is not None
    contiguous = (qkv.contiguous(), text.contiguous())
    for call, why in (
        ((contiguous[0], heads, text), "channels in qkv are not side by side"),
        ((qkv, heads, contiguous[1]), "channels in encoder_kv are not side by side"),
        ((qkv.half(), heads, text.half()), "qkv is torch.float16"),
        ((qkv.double(), heads, text.double()), "qkv is torch.float64"),
        ((qkv.to("meta"), heads, text.to("meta")), "qkv is on meta"),
        ((qkv, heads, text.bfloat16()), "encoder_kv differs from qkv in type"),
        (inputs(1, 2, 20, 7, head=16), "heads are 16 wide; the kernel takes 32, 64, 128"),
        ((qkv[:, :, :0], heads, text), "no elements"),
        ((qkv, heads, text.clone().requires_grad_()), "gradients are wanted"),
    ):
        assert why in reason(*call)
        with force(text_attention="cpu"), pytest.raises(BackendError, match=why):
            text_attention(*call)


@needs_library
def test_it_comes_before_sdpa_where_it_was_measured_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op.OP, "_choices", {})
    qkv, heads, text = inputs(1, 2, LONG, 7)
    assert op.OP.names.index("cpu") < op.OP.names.index("sdpa")
    wanted = "sdpa" if ISAS == ["portable"] else "cpu"
    assert op.OP.choose(Call(qkv, heads, text).facts()).name == wanted

    class Old:
        @staticmethod
        def isas() -> list[str]:
            return ["portable"]

    monkeypatch.setattr(op.OP, "_choices", {})
    monkeypatch.setattr(native, "load", Old)
    assert op.OP.choose(Call(qkv, heads, text).facts()).name == "sdpa"
    assert "without AVX2" in reason(qkv, heads, text)
    with force(text_attention="cpu"):
        assert reason(qkv, heads, text) == "None"


@needs_library
@pytest.mark.parametrize(
    ("isas", "usable", "tokens", "dtype", "wanted"),
    [
        (
            ["avx512_bf16"],
            True,
            LONG,
            torch.bfloat16,
            "sdpa",
        ),  # compiled without tiles, on a processor that has them
        (["avx512_bf16"], None, LONG, torch.bfloat16, "sdpa"),  # by a library that does not know of them
        (["avx512_bf16"], False, LONG, torch.bfloat16, "cpu"),  # the system refuses tiles, to torch as well
        (["avx512_bf16"], True, LONG - 1, torch.bfloat16, "cpu"),
        (["avx512_bf16"], True, LONG, torch.float32, "cpu"),
        (["amx", "avx512_bf16"], True, LONG, torch.bfloat16, "cpu"),
    ],
)
def test_with_amx_torch_is_left_what_the_kernel_has_no_tiles_for(
    isas: list[str], usable: bool | None, tokens: int, dtype: torch.dtype, wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fake = SimpleNamespace(isas=lambda: isas)
    if usable is not None:
        fake.amx_usable = lambda: usable
    facts = Call(*inputs(1, 1, tokens, 7, dtype=dtype)).facts()
    monkeypatch.setattr(native, "load", lambda: fake)
    for features, expected in ((["AMX BF16"], wanted), ([], "cpu")):
        monkeypatch.setattr(op.OP, "_choices", {})
        monkeypatch.setattr(attention, "features", lambda features=features: features)
        assert op.OP.choose(facts).name == expected
        said = str({v.backend: v.reason for v in op.OP.explain(facts).verdicts}["cpu"])
        assert ("AMX tiles" in said) == (expected == "sdpa")


@needs_library
def test_a_plan_is_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in TYPES:
        call = Call(*inputs(1, 2, 40, 7, dtype=dtype))
        (plan,) = [plan for plan in text_attention_cpu.plans(call) if plan["isa"] != "amx"]
        found = text_attention_cpu.run(call, plan=plan)
        assert torch.equal(found, text_attention_cpu.run(call, isa=str(plan["isa"])))
        for wrong in ({"isa": "sse"}, {}, {**plan, "block": 96}):
            with pytest.raises(ValueError, match="plan: got"):
                text_attention_cpu.run(call, plan=wrong)
    bf16, fp32 = (Call(*inputs(1, 1, 40, 7, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    monkeypatch.setattr(
        native, "load", lambda: SimpleNamespace(isas=lambda: ["amx", "avx512_bf16", "avx512"])
    )
    assert [*text_attention_cpu.plans(bf16)] == [{"isa": "amx"}, {"isa": "avx512_bf16"}]
    assert [*text_attention_cpu.plans(fp32)] == [{"isa": "avx512_bf16"}]
    if amx_emulated.ISAS:
        monkeypatch.setattr(native, "load", lambda: amx_emulated.LIBRARY)
        (plan,) = text_attention_cpu.plans(bf16)
        found = text_attention_cpu.run(bf16, plan=plan)
        assert worst(found, exact(bf16.qkv, 1, bf16.encoder_kv)) <= 2.4 * HALF_UNIT[torch.bfloat16]


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_missing", lambda: "no C++ compiler")
    monkeypatch.setattr(native, "load", lambda: None)
    call = inputs(1, 2, 20, 7)
    assert reason(*call) == "no C++ compiler"
    with pytest.raises(RuntimeError, match="called where it declines"):
        run(*call)


@needs_library
@pytest.mark.parametrize(
    "change",
    [{"heads": 0}, {"tokens": 0}, {"head_size": 48}, {"dtype": 2}, {"text": 0}, {"text_tokens": 0}, {"y": 0}, {"isa": "x"}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_module_checks_what_it_is_given(change: dict[str, Any]) -> None:
    buffer = torch.zeros(4096)
    address = buffer.data_ptr()
    call: dict[str, Any] = {
        "qkv": address, "text": address, "y": address, "dtype": 0, "samples": 1, "heads": 2, "head_size": 32, "tokens": 3,
        "text_tokens": 2, "qkv_sample_stride": 576, "qkv_token_stride": 192, "text_sample_stride": 256,
        "text_token_stride": 128, "y_sample_stride": 192, "y_token_stride": 64, "threads": 1,
    }  # fmt: skip
    assert library is not None
    library.text_attention(**call)
    with pytest.raises(ValueError, match=r"text_attention:|instruction set"):
        library.text_attention(**{**call, **change})
