"""One call of upsampled_convolution: its arguments and what is accepted."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, schema
from glide_fast.ops.upsampled_convolution.places import PLACES


@dataclass(slots=True)
class Call:
    """The arguments of :func:`~glide_fast.ops.upsampled_convolution.upsampled_convolution` under their names there."""

    x: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor | None = None

    tensors: tuple[torch.Tensor | None, ...] = field(
        init=False, repr=False
    )  # the arguments in TENSORS, in its order

    def __post_init__(self) -> None:
        self.tensors = (self.x, self.weights, self.bias)


TENSORS = schema.tensors(Call)
"""The arguments that are tensors."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for weights that ``place_weights`` cannot have returned; the convolution checks the rest."""
    checks.tensors(TENSORS, call.tensors, 2)
    weights = call.weights
    if weights.dim() != 4 or weights.shape[0] % PLACES or weights.shape[2:] != (2, 2):
        raise invalid("weights", tuple(weights.shape), "place_weights(weight), of shape [4 O, C, 2, 2]")
