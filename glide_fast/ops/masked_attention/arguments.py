"""One call of masked_attention: its arguments, their checks, and the facts by which a backend is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema
from glide_fast.ops.attention import MAX_OFFSET, span

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Facts(NamedTuple):
    """The facts of a call by which a backend is chosen."""

    device: str  # torch.device.type of q
    dtype: torch.dtype
    head_size: int
    causal: bool
    lengths: bool  # whether there are lengths
    side_by_side: bool  # the channels of a token lie side by side, in q, k and v
    huge: bool  # a sample spans MAX_OFFSET elements or more
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.masked_attention` under their names there, as backends' ``run`` takes them."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    heads: int
    causal: bool = False
    lengths: torch.Tensor | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(
        init=False, repr=False
    )  # the arguments in TENSORS, in its order

    def __post_init__(self) -> None:
        self.tensors = (self.q, self.k, self.v, self.lengths)

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.q.shape[2] // self.heads

    def facts(self) -> Facts:
        """The facts of this (checked) call, for ``OP.choose`` and ``OP.explain``."""
        q, k, v = self.q, self.k, self.v
        return Facts(
            q.device.type,
            q.dtype,
            q.shape[2] // self.heads,
            self.causal,
            self.lengths is not None,
            q.stride(2) == 1 and k.stride(2) == 1 and v.stride(2) == 1,
            span(q) >= MAX_OFFSET or span(k) >= MAX_OFFSET or span(v) >= MAX_OFFSET,
            q.numel() == 0,
            (q.requires_grad or k.requires_grad or v.requires_grad) and torch.is_grad_enabled(),
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    def empty_result(self) -> torch.Tensor:
        """Uninitialised, contiguous memory for the result."""
        return self.q.new_empty(self.q.shape)


TENSORS = schema.tensors(Call)
"""The names of the arguments that are tensors."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`glide_fast.ops.masked_attention`.

    Also converts ``call.heads`` to an int of Python.
    """
    q, k, v, heads, causal, lengths = call.q, call.k, call.v, call.heads, call.causal, call.lengths
    checks.tensors(TENSORS, call.tensors, 3)
    if q.dim() != 3 or not q.shape[2]:
        raise invalid("q", tuple(q.shape), "a tensor of shape [N, T, heads * head_size]")
    n, queries, width = q.shape
    checks.floating("q", q)
    checks.flag("causal", causal)
    if not checks.is_integer(heads) or heads < 1 or width % heads:
        raise invalid("heads", heads, f"a divisor of the width {width}")
    call.heads = checks.as_int(heads)
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
