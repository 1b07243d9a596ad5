"""Other packages' adapters: against the real ones where they run, else against modules with the same functions."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.contestants import (
    AttentionCall,
    NormCall,
    Unable,
    liger_kernel,
    peer,
    peers,
    sageattention,
    torch_sdpa,
    torchnorm,
    xformers,
)
from glide_fast.ops.group_norm_act.reference import reference as norm_reference
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.reference import reference as attention_reference

HEADS = 2


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Stand in for an importable module and the packages above it."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def norm_call(film: bool = True) -> NormCall:
    x = torch.randn(2, 12, 4, 6).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 12)
    scale, shift = torch.randn(2, 2, 12) if film else (None, None)
    return NormCall(x, weight, bias, 3, 1e-5, scale, shift, silu=True)


def attention_call(
    head_size: int = 64, text: int | None = 5, **rest: Any
) -> tuple[AttentionCall, torch.Tensor]:
    """A call, and its result."""
    qkv = torch.randn(2, 9, HEADS * 3 * head_size).mT  # a token's channels side by side, as in the models
    kv = None if text is None else torch.randn(2, text, HEADS * 2 * head_size).mT
    call = AttentionCall(lambda: packed_heads.split(qkv, HEADS, kv), packed_heads.merge, **rest)
    return call, attention_reference(qkv, HEADS, kv)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fakes of CUDA packages run on the CPU."""
    for each in (liger_kernel, xformers, sageattention):
        monkeypatch.setattr(each, "need_cuda", lambda x: None)


def test_liger_kernel(monkeypatch: pytest.MonkeyPatch, anywhere: None) -> None:
    class LigerGroupNormFunction:
        @staticmethod
        def apply(
            x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, channels: int, groups: int, eps: float
        ) -> Any:
            assert x.is_contiguous() and channels == x.shape[1]
            rows = x.view(len(x), groups, -1)
            centred = rows - rows.mean(-1, keepdim=True)
            y = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
            return y.view(x.shape) * w[:, None, None] + b[:, None, None]

    module(monkeypatch, "liger_kernel.ops.group_norm", LigerGroupNormFunction=LigerGroupNormFunction)
    call = norm_call()
    (y,) = liger_kernel.prepare(call)()
    want = norm_reference(call.x, call.weight, call.bias, 3, 1e-5, call.scale, call.shift, True)
    torch.testing.assert_close(y, want)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("film", [True, False])
def test_torchnorm(monkeypatch: pytest.MonkeyPatch, film: bool) -> None:
    module(monkeypatch, "torchnorm", GroupNorm=torch.nn.GroupNorm)
    call = norm_call(film)
    (y,) = torchnorm.prepare(call)()
    want = norm_reference(call.x, call.weight, call.bias, 3, 1e-5, call.scale, call.shift, True)
    torch.testing.assert_close(y, want)


def test_xformers(monkeypatch: pytest.MonkeyPatch, anywhere: None) -> None:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_bias: object) -> torch.Tensor:
        assert attn_bias is None or attn_bias == "causal"
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=attn_bias is not None).transpose(1, 2)

    module(
        monkeypatch, "xformers.ops", memory_efficient_attention=attend, LowerTriangularMask=lambda: "causal"
    )
    call, want = attention_call()
    torch.testing.assert_close(xformers.prepare(call)()[0], want)
    causal, _ = attention_call(text=None, causal=True)
    q, k, v = causal.split()
    want = causal.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(xformers.prepare(causal)()[0], want)
    with pytest.raises(Unable, match="mask"):
        xformers.prepare(attention_call(mask=torch.ones(9, 14, dtype=torch.bool))[0])


@pytest.mark.parametrize("text", [5, None])
def test_sageattention_leaves_the_input_alone(
    monkeypatch: pytest.MonkeyPatch, anywhere: None, text: int | None
) -> None:
    def sageattn(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tensor_layout: str, is_causal: bool
    ) -> torch.Tensor:
        assert tensor_layout == "HND" and not is_causal
        assert all(part.stride(-1) == 1 for part in (q, k, v))
        k -= k.mean(dim=2, keepdim=True)  # as version 1 does; the softmax does not see it
        return F.scaled_dot_product_attention(q, k, v)

    module(monkeypatch, "sageattention", sageattn=sageattn)
    call, want = attention_call(text=text)
    run = sageattention.prepare(call)
    for _ in range(2):
        torch.testing.assert_close(run()[0], want)
    with pytest.raises(Unable, match="32 wide"):
        sageattention.prepare(attention_call(head_size=32)[0])
    with pytest.raises(Unable, match="mask"):
        sageattention.prepare(attention_call(mask=torch.ones(9, 14, dtype=torch.bool))[0])


@pytest.mark.parametrize("name", torch_sdpa.KERNELS)
def test_torchs_kernels_run_or_say_why_not(name: str) -> None:
    call, want = attention_call()
    try:
        run = torch_sdpa.prepare(torch_sdpa.KERNELS[name], call)
    except Unable as reason:
        assert str(reason)
    else:
        torch.testing.assert_close(run()[0], want)


def test_torch_has_a_cpu_kernel() -> None:
    # Else nothing above would have compared anything.
    torch_sdpa.prepare(torch_sdpa.KERNELS["SDPA, FlashAttention"], attention_call()[0])


def test_what_is_absent_or_broken_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unable, match=r"not installed \(pip install no-such-package\)"):
        peer.load("no_such_package", "no-such-package")
    monkeypatch.setattr(peer.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(Unable, match="does not load: ZeroDivisionError"):
        peer.load("broken", "broken")
    assert peer.named("Name", "no-such-package") == "Name"
    with pytest.raises(Unable, match="are on cpu"):
        peer.need_cuda(torch.zeros(1))


@pytest.mark.parametrize("call", [norm_call(), attention_call()[0]], ids=["norm", "attention"])
def test_every_peer_runs_or_says_why_not(call: NormCall | AttentionCall) -> None:
    found = peers(type(call))
    assert len(found) >= 2 and len({each.name for each in found}) == len(found)
    for each in found:
        try:
            (result,) = each.prepare(call)()
        except Unable as reason:
            assert str(reason)
        else:
            assert torch.isfinite(result).all()
