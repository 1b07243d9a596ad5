"""masked_attention: its contract, which backend runs and why, and that what runs here agrees. The kernel: check_triton.py."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.ops import masked_attention, triton_runtime
from glide_fast.ops.backends import force
from glide_fast.ops.masked_attention import xformers as masked_attention_xformers
from glide_fast.ops.masked_attention.arguments import Call
from glide_fast.ops.masked_attention.reference import reference
from glide_fast.ops.masked_attention.traced import NODE

op = importlib.import_module("glide_fast.ops.masked_attention")


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
        ({"lengths": torch.tensor([True, True])}, "lengths"),
        ({"lengths": torch.ones(2, dtype=torch.long, device="meta")}, "lengths"),
        ({"k": torch.zeros(2, 5, 8, dtype=torch.bfloat16)}, "k"),
        ({"v": torch.zeros(2, 5, 8, device="meta")}, "v"),
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


def reasons(*call: Any, **mask: Any) -> dict[str, str | None]:
    return {
        verdict.backend: verdict.reason for verdict in op.OP.explain(Call(*call, **mask).facts()).verdicts
    }


def chosen(*call: Any, **mask: Any) -> str:
    return op.OP.choose(Call(*call, **mask).facts()).name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [1, 20], [33, 40]])
def test_sdpa_is_at_least_as_exact_as_the_reference(
    dtype: torch.dtype, causal: bool, lengths: list[int] | None
) -> None:
    q, k, v = qkv(2, 33, 33, 64, dtype)
    mask = {"causal": causal, "lengths": None if lengths is None else torch.tensor(lengths)}
    truth = reference(q.double(), k.double(), v.double(), 4, **mask)
    with force(masked_attention="sdpa"):
        result = masked_attention(q, k, v, 4, **mask)
    assert result.shape == truth.shape and result.dtype == dtype
    plain = (reference(q, k, v, 4, **mask).double() - truth).abs().max()
    assert float((result.double() - truth).abs().max()) <= max(2 * float(plain), 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 7]])
def test_sdpa_gives_the_gradients_of_the_reference(causal: bool, lengths: list[int] | None) -> None:
    inputs = [x.requires_grad_() for x in qkv(2, 7, 7, 16)]
    mask = {"causal": causal, "lengths": None if lengths is None else torch.tensor(lengths)}
    with force(masked_attention="sdpa"):
        ours = torch.autograd.grad(masked_attention(*inputs, 2, **mask).square().sum(), inputs)
    theirs = torch.autograd.grad(reference(*inputs, 2, **mask).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_on_a_cpu_sdpa_runs_where_it_was_measured_faster() -> None:
    for dtype, name in ((torch.float32, "sdpa"), (torch.bfloat16, "reference"), (torch.float64, "reference")):
        assert chosen(*qkv(2, 7, 7, 16, dtype), 2) == name
    with force("sdpa"):
        assert chosen(*qkv(2, 7, 7, 16, torch.bfloat16), 2) == "sdpa"


def test_the_kernel_declines_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op.OP, "_choices", {})
    q, k, v = qkv(2, 7, 7, 16, torch.float32)
    assert reasons(q, k, v, 2)["triton"] == "the tensors are on cpu, not on a CUDA device"
    monkeypatch.setattr(triton_runtime, "why_not", lambda device, kernel: None)
    assert reasons(q, k, v, 2, causal=True)["triton"] is None
    far = torch.empty_strided((1, 96, 20), (0, 2**25, 1), device="meta")
    for call, reason in (
        ((q.double(), k.double(), v.double(), 2), "q is torch.float64"),
        ((*qkv(1, 3, 3, 160), 1), "q is torch.float64"),
        ((*qkv(1, 3, 3, 160, torch.float16), 1), "heads are 160 wide; the kernel takes 128 at most"),
        ((q[:, :0], k, v, 2), "q holds no elements"),
        ((q, k, v.clone().requires_grad_(), 2), "gradients are wanted"),
        ((far, far, far, 2), "spans 2147483648"),
    ):
        assert reason in str(reasons(*call)["triton"])


def test_xformers_declines_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(2, 7, 7, 16, torch.float16)
    assert "CUDA devices only" in str(reasons(q, k, v, 2)["xformers"])
    call = Call(q, k, v, 2).facts()._replace(device="cuda")
    monkeypatch.setattr(masked_attention_xformers, "why_no_xformers", lambda: "built for another torch")
    for change, reason in (
        ({}, "built for another torch"),
        ({"dtype": torch.float32}, "float32"),
        ({"lengths": True}, "lengths are given"),
        ({"head_size": 20}, "multiple of 8"),
        ({"empty": True}, "no elements"),
    ):
        assert reason in str(masked_attention_xformers.supports(call._replace(**change)))


def test_what_xformers_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operators need a device, so a stand-in with its documented arguments takes the call: [N, tokens, heads, head size]."""

    def stand_in(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_bias: Any) -> torch.Tensor:
        parts = [x.transpose(1, 2) for x in (q, k, v)]
        return F.scaled_dot_product_attention(*parts, is_causal=attn_bias == "triangle").transpose(1, 2)

    library = SimpleNamespace(memory_efficient_attention=stand_in, LowerTriangularMask=lambda: "triangle")
    monkeypatch.setitem(sys.modules, "xformers.ops", library)
    q, k, v = qkv(2, 7, 7, 16)
    for causal in (False, True):
        got = masked_attention_xformers.run(Call(q, k, v, 2, causal))
        torch.testing.assert_close(got, reference(q, k, v, 2, causal=causal))


def test_the_choice_can_be_printed_and_forced() -> None:
    q, k, v = qkv(2, 7, 7, 16, torch.float32)
    printed = str(op.OP.explain(Call(q, k, v, 2).facts()))
    assert printed.startswith("masked_attention:") and "* sdpa: can run" in printed
    with force(masked_attention="triton"), pytest.raises(BackendError, match="on cpu, not on a CUDA device"):
        masked_attention(q, k, v, 2)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 7]])
def test_the_custom_op_keeps_its_promises(gradients: bool, causal: bool, lengths: list[int] | None) -> None:
    q, k, v = (x.requires_grad_(gradients) for x in qkv(2, 7, 7, 16, torch.float32))
    given = None if lengths is None else torch.tensor(lengths)
    torch.library.opcheck(NODE.operator, (q, k, v, 2, causal, given))
    strided = q.detach().transpose(0, 1).contiguous().transpose(0, 1)
    torch.library.opcheck(NODE.operator, (strided, k, v, 2, causal, given))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 7]])
def test_under_torch_compile_the_custom_op_breaks_no_graph(causal: bool, lengths: list[int] | None) -> None:
    inputs = [x.requires_grad_() for x in qkv(2, 7, 7, 16, torch.float32)]
    given = None if lengths is None else torch.tensor(lengths)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return reference(q * 2, k, v, 2, causal=causal, lengths=given) + 1

    def opaque(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return NODE(Call(q * 2, k, v, 2, causal, given)) + 1

    result = torch.compile(opaque, backend="aot_eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(result, plain(*inputs))
    ours = torch.autograd.grad(result.square().sum(), inputs)
    theirs = torch.autograd.grad(plain(*inputs).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
