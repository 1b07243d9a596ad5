"""One call of output_convolution: its arguments, what is accepted, and what the choice of a backend rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, schema


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype  # of x
    outputs: int
    dense: bool  # x is channels-last without gaps, bias side by side
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.output_convolution` under their names there."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(init=False, repr=False)  # those that TENSORS names

    def __post_init__(self) -> None:
        self.tensors = (self.x, self.weight, self.bias)

    def facts(self) -> Facts:
        """The facts of this (checked) call, for ``OP.choose`` and ``OP.explain``."""
        x, bias = self.x, self.bias
        unreadable = plain_tensor.why_not(TENSORS, self.tensors)
        # torch.vmap's tensors know of no memory format.
        dense = unreadable is None and x.is_contiguous(memory_format=torch.channels_last)
        return Facts(
            x.device.type,
            x.dtype,
            self.weight.shape[0],
            dense and (bias is None or bias.stride(0) == 1),
            x.numel() == 0,
            checks.gradients(self.tensors),
            unreadable,
        )

    def empty_result(self) -> torch.Tensor:
        """Uninitialised memory for the result: channels-last where x is, contiguous otherwise."""
        n, _, height, width = self.x.shape
        channels_last = self.x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        shape, weight = (n, self.weight.shape[0], height, width), self.weight
        return torch.empty(shape, dtype=weight.dtype, device=self.x.device, memory_format=layout)


TENSORS = schema.tensors(Call)
"""The arguments that are tensors."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`glide_fast.ops.output_convolution`."""
    x, weight, bias = call.x, call.weight, call.bias
    checks.tensors(TENSORS, call.tensors, 2)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise invalid("x", tuple(x.shape), "a tensor of shape [N, C, H, W] with C, H, W >= 1")
    checks.floating("x", x)
    if weight.dim() != 4 or weight.shape[0] < 1 or tuple(weight.shape[1:]) != (x.shape[1], 3, 3):
        raise invalid("weight", tuple(weight.shape), f"a weight of shape [O, {x.shape[1]}, 3, 3]")
    wide = torch.promote_types(x.dtype, torch.float32)
    if weight.dtype != wide:
        raise invalid("weight", weight.dtype, f"{wide} beside x of {x.dtype}")
    if bias is not None:
        if tuple(bias.shape) != (weight.shape[0],):
            raise invalid("bias", tuple(bias.shape), f"a vector of {weight.shape[0]} elements")
        if bias.dtype != wide:
            raise invalid("bias", bias.dtype, f"{wide}, the weight's type")
