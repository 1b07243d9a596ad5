"""Attention over the image's own tokens plus the text's, on GLIDE's packed head-major layout.

Replaces the official chain of reshapes, splits, two concatenations, two scalings, an fp32 softmax and a second product
(``QKVAttention`` in the released ``unet.py``; Nichol et al. 2021, section 2.3 for why the text joins every attention layer).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, recompute
from glide_fast.ops.backends import Op
from glide_fast.ops.text_attention import cpu, packed_heads, sdpa, triton, xformers

LONG = 1024
"""Tokens from which on a sequence counts as long (see :func:`glide_fast.ops.text_attention.sdpa.worth`)."""


class Call(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # qkv's, as in torch.device.type
    dtype: torch.dtype
    head_size: int
    alike: bool  # encoder_kv, where there is one, has qkv's type and device
    channels_last: bool  # a token's channels lie side by side
    text_channels_last: bool  # they do in encoder_kv, where there is one
    long: bool  # LONG tokens or more
    huge: (
        bool  # a sample spans more elements than 31 bits count, or the batch has more heads than a grid holds
    )
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


_TENSORS = ("qkv", "encoder_kv")

OP: Op[Call] = Op("text_attention")
"""The backends of :func:`text_attention`."""


def check_arguments(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None) -> int:
    """Raise ``InvalidInputError`` for shapes outside the contract; return the head size."""
    checks.tensors(_TENSORS, (qkv, encoder_kv), 1)
    if qkv.dim() != 3 or not qkv.shape[1]:
        raise invalid("qkv", tuple(qkv.shape), "a tensor of shape [N, heads * 3 * head_size, T]")
    checks.floating("qkv", qkv)
    if not checks.is_integer(heads) or heads < 1 or qkv.shape[1] % (3 * heads):
        raise invalid("heads", heads, f"a divisor of qkv.shape[1] / 3 = {qkv.shape[1] / 3:g}")
    head_size = qkv.shape[1] // (3 * heads)
    if encoder_kv is not None:
        want = (qkv.shape[0], heads * 2 * head_size)
        if encoder_kv.dim() != 3 or tuple(encoder_kv.shape[:2]) != want:
            raise invalid(
                "encoder_kv", tuple(encoder_kv.shape), f"a tensor of shape [{want[0]}, {want[1]}, S]"
            )
        checks.floating("encoder_kv", encoder_kv)
        if encoder_kv.dtype != qkv.dtype and torch.promote_types(encoder_kv.dtype, qkv.dtype) != qkv.dtype:
            raise invalid("encoder_kv", encoder_kv.dtype, f"the type of qkv, {qkv.dtype}, or a narrower one")
        checks.together(_TENSORS, (qkv, encoder_kv), qkv.device)
    return head_size


def reference(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`text_attention`."""
    n, width, tokens = qkv.shape
    head_size = width // (3 * heads)
    q, k, v = qkv.reshape(n * heads, 3 * head_size, tokens).split(head_size, dim=1)
    if encoder_kv is not None:
        text_k, text_v = encoder_kv.reshape(n * heads, 2 * head_size, encoder_kv.shape[2]).split(
            head_size, dim=1
        )
        k = torch.cat([text_k, k], dim=-1)
        v = torch.cat([text_v, v], dim=-1)
    # Scaling both factors by head_size ** -1/4 keeps fp16 logits in range; scaling the product would overflow first.
    scale = 1.0 / math.sqrt(math.sqrt(head_size))
    logits = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = torch.softmax(logits, dim=-1).to(qkv.dtype)
    return torch.einsum("bts,bcs->bct", probabilities, v).reshape(n, heads * head_size, tokens)


def facts(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> Call:
    """The facts of a call with these (checked) arguments, for ``OP.choose`` and ``OP.explain``."""
    alike, gradients = True, qkv.requires_grad
    huge = _span(qkv) >= triton.MAX_OFFSET
    huge = huge or qkv.shape[0] * heads > triton.MAX_HEADS
    if encoder_kv is not None:
        alike = encoder_kv.dtype == qkv.dtype and encoder_kv.device == qkv.device
        gradients = gradients or encoder_kv.requires_grad
        huge = huge or _span(encoder_kv) >= triton.MAX_OFFSET
    return Call(
        qkv.device.type,
        qkv.dtype,
        qkv.shape[1] // (3 * heads),
        alike,
        packed_heads.channels_last(qkv),
        encoder_kv is None or encoder_kv.stride(1) == 1,
        qkv.shape[2] >= LONG,
        huge,
        qkv.numel() == 0,
        gradients and torch.is_grad_enabled(),
        plain_tensor.why_not(_TENSORS, (qkv, encoder_kv)),
    )


def _span(packed: torch.Tensor) -> int:
    return packed.shape[1] * packed.stride(1) + packed.shape[2] * packed.stride(2)


def text_attention(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """Multi-head attention whose keys and values are the text's followed by the queries' own.

    Args:
        qkv: ``[N, heads * 3 * head_size, T]``; along dimension 1 the order is head-major: for each head its q, k, v.
            Any strides: the official layout and a transposed ``[N, T, heads * 3 * head_size]`` are both read in place by
            the Triton kernel, the latter by the C++ one. fp16, bf16, fp32 or fp64.
        heads: number of heads.
        encoder_kv: ``[N, heads * 2 * head_size, S]`` or None; for each head its k, v. They come before the image's and
            are never masked: padding positions of the prompt are attended, as in the official model.

    Returns:
        ``[N, heads * head_size, T]`` in the type of ``qkv``, in any strides. Softmax is taken in fp32 (fp64 stays fp64).

    Raises:
        InvalidInputError: for shapes outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    check_arguments(qkv, heads, encoder_kv)
    heads = checks.as_int(heads)
    if torch.compiler.is_compiling():
        # On a CPU the compiler fuses the reference; on a device it is to see one opaque op, and no graph break.
        return _custom_op(qkv, heads, encoder_kv) if qkv.is_cuda else reference(qkv, heads, encoder_kv)
    known = facts(qkv, heads, encoder_kv)
    if known.unreadable is not None and plain_tensor.as_one_node((qkv, encoder_kv)):
        return _custom_op(qkv, heads, encoder_kv)
    backend = OP.choose(known, qkv, heads, encoder_kv)
    result: torch.Tensor = backend.run(qkv, heads, encoder_kv)
    return result


@torch.library.custom_op(
    "glide_fast::text_attention",
    mutates_args=(),
    schema="(Tensor qkv, int heads, Tensor? encoder_kv) -> Tensor",
)
def _custom_op(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None) -> torch.Tensor:
    """The op for ``torch.compile``: the backend is chosen when it runs. Gradients are the reference's, computed again."""
    backend = OP.choose(facts(qkv, heads, encoder_kv), qkv, heads, encoder_kv)
    result: torch.Tensor = backend.run(qkv, heads, encoder_kv)
    promised = packed_heads.empty_result(qkv)
    return result if result.stride() == promised.stride() else promised.copy_(result)


@_custom_op.register_fake
def _custom_op_fake(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None) -> torch.Tensor:
    return packed_heads.empty_result(qkv)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    qkv, ctx.heads, encoder_kv = inputs
    ctx.save_for_backward(qkv, encoder_kv)


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    qkv, encoder_kv = ctx.saved_tensors
    inputs = [qkv] if encoder_kv is None else [qkv, encoder_kv]
    gradients = recompute.gradients(lambda a, *b: reference(a, ctx.heads, *b), inputs, upstream)
    return gradients[0], None, gradients[1] if encoder_kv is not None else None


_custom_op.register_autograd(_backward, setup_context=_save)


OP.register("triton", triton.run, triton.supports, plain_only=True)
OP.register("cpu", cpu.run, cpu.supports, cpu.worth, plain_only=True)
OP.register("sdpa", sdpa.run, sdpa.supports, sdpa.worth, plain_only=True)
OP.register("xformers", xformers.run, xformers.supports, plain_only=True)
OP.register("reference", reference)
