"""text_attention: which backend runs and why, and that all that run here agree. The kernel itself: check_triton.py."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch

from glide_fast.errors import BackendError
from glide_fast.ops import text_attention, triton_runtime
from glide_fast.ops.attention import why_no_xformers
from glide_fast.ops.backends import force
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention import xformers as text_attention_xformers
from glide_fast.ops.text_attention.arguments import LONG, Call
from glide_fast.ops.text_attention.reference import reference
from glide_fast.ops.text_attention.traced import NODE

op = importlib.import_module("glide_fast.ops.text_attention")


def arguments(
    tokens: int = 20,
    text_tokens: int | None = 7,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    head: int = 16,
) -> tuple[torch.Tensor, int, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(2, 2 * 3 * head, tokens, generator=generator).to(dtype)
    if channels_last:
        qkv = qkv.transpose(1, 2).contiguous().transpose(1, 2)
    text = None if text_tokens is None else torch.randn(2, 2 * 2 * head, text_tokens, generator=generator)
    return qkv, 2, None if text is None else text.to(dtype)


def reasons(*call: Any) -> dict[str, str | None]:
    return {verdict.backend: verdict.reason for verdict in op.OP.explain(Call(*call).facts()).verdicts}


def chosen(*call: Any) -> str:
    return op.OP.choose(Call(*call).facts()).name


def test_on_a_cpu_sdpa_runs_where_it_was_measured_faster() -> None:
    assert chosen(*arguments(LONG, channels_last=True)) == "sdpa"
    assert chosen(*arguments(LONG)) == "reference"
    assert chosen(*arguments(LONG - 1, channels_last=True)) == "reference"
    assert chosen(*arguments(LONG, channels_last=True, dtype=torch.float64)) == "reference"
    qkv, heads, text = arguments(LONG, channels_last=True)
    assert chosen(qkv.requires_grad_(), heads, text) == "reference"
    with torch.no_grad():
        assert chosen(qkv, heads, text) == "sdpa"
    with force("sdpa"):
        assert chosen(*arguments()) == "sdpa"


def test_the_kernel_declines_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op.OP, "_choices", {})
    assert reasons(*arguments())["triton"] == "the tensors are on cpu, not on a CUDA device"
    monkeypatch.setattr(triton_runtime, "why_not", lambda device, kernel: None)
    assert reasons(*arguments())["triton"] is None
    qkv, heads, text = arguments()
    assert text is not None
    for call, reason in (
        (arguments(dtype=torch.float64), "qkv is torch.float64"),
        ((qkv, heads, text.bfloat16()), "encoder_kv differs from qkv in type"),
        ((qkv, heads, text.to("meta")), "encoder_kv differs from qkv in type or device"),
        (arguments(head=160), "heads are 160 wide; the kernel takes 128 at most"),
        (arguments(tokens=0), "qkv holds no elements"),
        ((qkv, heads, text.clone().requires_grad_()), "gradients are wanted"),
        ((torch.empty_strided((1, 96, 20), (0, 2**25, 1), device="meta"), heads, None), "spans 2147483648"),
        ((torch.empty(2**15, 48, 4, device="meta"), heads, None), "more than 65535 heads"),
    ):
        assert reason in str(reasons(*call)["triton"])


def test_without_triton_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    triton_runtime.load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "triton", None)
        module, reason = triton_runtime.load("text_attention")
        assert module is None and "Triton does not load" in str(reason)
        assert "Triton does not load" in str(triton_runtime.why_not("cuda", "text_attention"))
    triton_runtime.load.cache_clear()


def test_xformers_declines_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CUDA devices only" in str(reasons(*arguments())["xformers"])
    call = Call(*arguments(dtype=torch.float16)).facts()._replace(device="cuda")
    why_no_xformers.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "xformers", None)
        assert 'pip install "glide-fast[xformers]"' in str(text_attention_xformers.supports(call))
    why_no_xformers.cache_clear()
    monkeypatch.setattr(text_attention_xformers, "why_no_xformers", lambda: "built for another torch")
    assert text_attention_xformers.supports(call) == "built for another torch"
    assert "float32" in str(text_attention_xformers.supports(call._replace(dtype=torch.float32)))
    assert "multiple of 8" in str(text_attention_xformers.supports(call._replace(head_size=20)))


def test_a_forced_backend_that_declines_raises() -> None:
    with force(text_attention="triton"), pytest.raises(BackendError, match="on cpu, not on a CUDA device"):
        text_attention(*arguments())


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_empty_result_is_laid_out_as_its_input(channels_last: bool) -> None:
    qkv, _, _ = arguments(channels_last=channels_last)
    result = packed_heads.empty_result(qkv)
    assert result.shape == (2, 32, 20) and result.stride() == (
        (640, 1, 32) if channels_last else (640, 20, 1)
    )


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("text_tokens", [None, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_custom_op_keeps_its_promises(
    text_tokens: int | None, channels_last: bool, gradients: bool
) -> None:
    qkv, heads, text = arguments(text_tokens=text_tokens, channels_last=channels_last)
    if gradients:
        qkv.requires_grad_()
        text = text.requires_grad_() if text is not None else None
    torch.library.opcheck(NODE.operator, (qkv, heads, text))


def test_the_custom_op_gives_the_gradients_of_the_reference() -> None:
    qkv, heads, text = arguments()
    assert text is not None
    inputs = (qkv.requires_grad_(), text.requires_grad_())
    ours = torch.autograd.grad(NODE(Call(qkv, heads, text)).square().sum(), inputs)
    theirs = torch.autograd.grad(reference(qkv, heads, text).square().sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_under_torch_compile_the_custom_op_breaks_no_graph() -> None:
    qkv, heads, text = arguments()
    run = torch.compile(lambda a, b: NODE(Call(a * 2, heads, b)) + 1, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(qkv, text), reference(qkv * 2, heads, text) + 1)
