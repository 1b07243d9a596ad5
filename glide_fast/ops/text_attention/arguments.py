"""One call of text_attention: its arguments, what is accepted, and what the choice of a backend rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema
from glide_fast.ops.attention import MAX_OFFSET, span
from glide_fast.ops.text_attention import packed_heads

LONG = 1024
"""Tokens from which on a sequence counts as long (see :func:`glide_fast.ops.text_attention.sdpa.worth`)."""
MAX_HEADS = 65535
"""Heads of all samples together that Triton's kernel takes: the second dimension of its grid."""


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # qkv's, as in torch.device.type
    dtype: torch.dtype
    head_size: int
    alike: bool  # encoder_kv, where there is one, has qkv's type and device
    channels_last: bool  # a token's channels lie side by side
    text_channels_last: bool  # they do in encoder_kv, where there is one
    long: bool  # LONG tokens or more
    huge: bool  # a sample spans MAX_OFFSET elements or more, or the batch has more than MAX_HEADS heads
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.text_attention` under their names there, as backends' ``run`` takes them."""

    qkv: torch.Tensor
    heads: int
    encoder_kv: torch.Tensor | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(init=False, repr=False)  # those that TENSORS names

    def __post_init__(self) -> None:
        self.tensors = (self.qkv, self.encoder_kv)

    @property
    def head_size(self) -> int:
        """Channels of one head's queries."""
        return self.qkv.shape[1] // (3 * self.heads)

    def facts(self) -> Facts:
        """The facts of this (checked) call, for ``OP.choose`` and ``OP.explain``."""
        qkv, text, heads = self.qkv, self.encoder_kv, self.heads
        n, width, tokens = qkv.shape
        alike, text_channels_last, gradients = True, True, qkv.requires_grad
        huge = span(qkv) >= MAX_OFFSET or n * heads > MAX_HEADS
        if text is not None:
            alike = text.dtype == qkv.dtype and text.device == qkv.device
            text_channels_last = text.stride(1) == 1
            gradients = gradients or text.requires_grad
            huge = huge or span(text) >= MAX_OFFSET
        return Facts(
            qkv.device.type,
            qkv.dtype,
            width // (3 * heads),
            alike,
            packed_heads.channels_last(qkv),
            text_channels_last,
            tokens >= LONG,
            huge,
            qkv.numel() == 0,
            gradients and torch.is_grad_enabled(),
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    def empty_result(self) -> torch.Tensor:
        """Uninitialised memory for the result, laid out as qkv is."""
        return packed_heads.empty_result(self.qkv)


TENSORS = schema.tensors(Call)
"""The arguments that are tensors."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`glide_fast.ops.text_attention`.

    Leaves ``call.heads`` a number of Python's.
    """
    qkv, heads, text = call.qkv, call.heads, call.encoder_kv
    checks.tensors(TENSORS, call.tensors, 1)
    if qkv.dim() != 3 or not qkv.shape[1]:
        raise invalid("qkv", tuple(qkv.shape), "a tensor of shape [N, heads * 3 * head_size, T]")
    checks.floating("qkv", qkv)
    if not checks.is_integer(heads) or heads < 1 or qkv.shape[1] % (3 * heads):
        raise invalid("heads", heads, f"a divisor of qkv.shape[1] / 3 = {qkv.shape[1] / 3:g}")
    call.heads = checks.as_int(heads)
    if text is not None:
        want = (qkv.shape[0], heads * 2 * call.head_size)
        if text.dim() != 3 or tuple(text.shape[:2]) != want:
            raise invalid("encoder_kv", tuple(text.shape), f"a tensor of shape [{want[0]}, {want[1]}, S]")
        checks.floating("encoder_kv", text)
        if text.dtype != qkv.dtype and torch.promote_types(text.dtype, qkv.dtype) != qkv.dtype:
            raise invalid("encoder_kv", text.dtype, f"the type of qkv, {qkv.dtype}, or a narrower one")
        checks.together(TENSORS, call.tensors, qkv.device)
