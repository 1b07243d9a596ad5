"""Attention under a mask, causal or by length: the noise-aware CLIP's text and image encoders (Radford et al. 2021, section 2.4).

Replaces the official chain of padding to a block multiple, permutes, two scalings, a dense additive mask and a softmax.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, recompute
from glide_fast.ops.backends import Op
from glide_fast.ops.masked_attention import cpu, sdpa, triton, xformers
from glide_fast.ops.masked_attention.heads import join, split
from glide_fast.ops.text_attention import cpu as text_attention_cpu

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Call(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # q's, as in torch.device.type
    dtype: torch.dtype
    head_size: int
    causal: bool
    lengths: bool  # are given
    side_by_side: bool  # a token's channels are, in q, k and v
    huge: bool  # a sample spans more elements than 31 bits count
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


_TENSORS = ("q", "k", "v", "lengths")

OP: Op[Call] = Op("masked_attention")
"""The backends of :func:`masked_attention`."""


def check_arguments(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool, lengths: torch.Tensor | None
) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`masked_attention`."""
    checks.tensors(_TENSORS, (q, k, v, lengths), 3)
    if q.dim() != 3 or not q.shape[2]:
        raise invalid("q", tuple(q.shape), "a tensor of shape [N, T, heads * head_size]")
    n, queries, width = q.shape
    checks.floating("q", q)
    checks.flag("causal", causal)
    if not checks.is_integer(heads) or heads < 1 or width % heads:
        raise invalid("heads", heads, f"a divisor of the width {width}")
    if k.dim() != 3 or (k.shape[0], k.shape[2]) != (n, width) or k.shape[1] < 1:
        raise invalid("k", tuple(k.shape), f"a tensor of shape [{n}, S, {width}] with S >= 1")
    if v.shape != k.shape:
        raise invalid("v", tuple(v.shape), f"the shape of k, {tuple(k.shape)}")
    for name, x in (("k", k), ("v", v)):
        if (x.dtype, x.device) != (q.dtype, q.device):
            raise invalid(name, f"{x.dtype} on {x.device}", f"q's type and device, {q.dtype} on {q.device}")
    if causal and k.shape[1] != queries:
        raise invalid(
            "causal", causal, f"False where queries ({queries}) and keys ({k.shape[1]}) differ in number"
        )
    if lengths is None:
        return
    if tuple(lengths.shape) != (n,) or lengths.dtype not in INTEGERS:
        raise invalid("lengths", (lengths.dtype, tuple(lengths.shape)), f"{n} integers, one a sample")
    if lengths.device != q.device:
        raise invalid("lengths", f"a tensor on {lengths.device}", f"q's device, {q.device}")


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`masked_attention`."""
    # The same scaling of both factors as in text_attention: logits stay in fp16's range.
    scale = 1.0 / math.sqrt(math.sqrt(q.shape[-1] // heads))
    q, k, v = (split(x, heads) for x in (q, k, v))
    logits = ((q * scale) @ (k * scale).transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32))
    positions = torch.arange(k.shape[-2], device=q.device)
    if causal:
        logits = logits.masked_fill(positions > positions[:, None], -math.inf)
    if lengths is not None:
        logits = logits.masked_fill(positions >= lengths[:, None, None, None], -math.inf)
    probabilities = torch.softmax(logits, dim=-1).to(v.dtype)
    return join(probabilities @ v)


def facts(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> Call:
    """The facts of a call with these (checked) arguments, for ``OP.choose`` and ``OP.explain``."""
    return Call(
        q.device.type,
        q.dtype,
        q.shape[2] // heads,
        causal,
        lengths is not None,
        all(x.stride(2) == 1 for x in (q, k, v)),
        any(_span(x) >= triton.MAX_OFFSET for x in (q, k, v)),
        q.numel() == 0,
        torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)),
        plain_tensor.why_not(_TENSORS, (q, k, v, lengths)),
    )


def _span(x: torch.Tensor) -> int:
    return x.shape[1] * x.stride(1) + x.shape[2] * x.stride(2)


def masked_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multi-head scaled dot-product attention where each query sees a prefix of the keys.

    Args:
        q: ``[N, T, heads * head_size]``, head after head along the last dimension; any strides, read in place by the kernel;
            fp16, bf16, fp32 or fp64.
        k, v: ``[N, S, heads * head_size]`` of the same type, on the same device.
        heads: number of heads.
        causal: query i sees keys 0 to i; T must be S.
        lengths: ``[N]`` integers from 1 to S on the same device, keys that a sample has; later ones are padding and are not
            seen. None: all S. They are read where they lie, so their values are not checked: S and more is all, and with
            nothing to average (0 and less) a sample's result is undefined.

    Returns:
        ``[N, T, heads * head_size]`` in the type of ``v``, in any strides. Softmax is taken in fp32 (fp64 stays fp64). Queries
        behind a sample's length are computed as well; what they hold is up to the caller to ignore.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    check_arguments(q, k, v, heads, causal, lengths)
    heads = checks.as_int(heads)
    if torch.compiler.is_compiling():
        # On a CPU the compiler fuses the reference; on a device it is to see one opaque op, and no graph break.
        if q.is_cuda:
            return _custom_op(q, k, v, heads, causal, lengths)
        return reference(q, k, v, heads, causal=causal, lengths=lengths)
    known = facts(q, k, v, heads, causal=causal, lengths=lengths)
    if known.unreadable is not None and plain_tensor.as_one_node((q, k, v, lengths)):
        return _custom_op(q, k, v, heads, causal, lengths)
    backend = OP.choose(known, q, k, v, heads, causal=causal, lengths=lengths)
    result: torch.Tensor = backend.run(q, k, v, heads, causal=causal, lengths=lengths)
    return result


@torch.library.custom_op(
    "glide_fast::masked_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, int heads, bool causal, Tensor? lengths) -> Tensor",
)
def _custom_op(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool, lengths: torch.Tensor | None
) -> torch.Tensor:
    """The op for ``torch.compile``: the backend is chosen when it runs. Gradients are the reference's, computed again."""
    backend = OP.choose(
        facts(q, k, v, heads, causal=causal, lengths=lengths), q, k, v, heads, causal=causal, lengths=lengths
    )
    result: torch.Tensor = backend.run(q, k, v, heads, causal=causal, lengths=lengths)
    return result.contiguous()


@_custom_op.register_fake
def _custom_op_fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool, lengths: torch.Tensor | None
) -> torch.Tensor:
    return q.new_empty(q.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    q, k, v, ctx.heads, ctx.causal, lengths = inputs
    ctx.save_for_backward(q, k, v, lengths)


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    q, k, v, lengths = ctx.saved_tensors

    def again(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return reference(q, k, v, ctx.heads, causal=ctx.causal, lengths=lengths)

    return *recompute.gradients(again, (q, k, v), upstream), None, None, None


_custom_op.register_autograd(_backward, setup_context=_save)


OP.register("triton", triton.run, triton.supports, plain_only=True)
OP.register("cpu", cpu.run, cpu.supports, text_attention_cpu.worth, plain_only=True)
OP.register(
    "sdpa",
    sdpa.run,
    sdpa.supports,
    sdpa.worth,
    plain_only=True,
)
OP.register("xformers", xformers.run, xformers.supports, plain_only=True)
OP.register("reference", reference)
