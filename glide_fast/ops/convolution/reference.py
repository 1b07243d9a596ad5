"""The maths of convolution in plain torch: the ground truth for every backend, and what runs where the others decline."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glide_fast.ops.convolution.arguments import Call, Facts
from glide_fast.ops.convolution.window import as_kernel


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """The result of :func:`glide_fast.ops.convolution`, in x's type but computed in fp32 (fp64 for fp64); differentiable."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.conv2d(
        x.to(wide), as_kernel(weight).to(wide), None if bias is None else bias.to(wide), stride, padding
    )
    if residual is not None:
        y = y + residual
    return y.to(x.dtype)


def as_measured(facts: Facts) -> str | None:
    """Why a measurement of this backend says nothing of a call."""
    packed = facts.packed or facts.tiled
    return "the weight is packed, and would be unpacked at every call" if packed else None


def run(call: Call) -> torch.Tensor:
    """The same, of a call."""
    _, stride, padding = call.window
    return reference(call.x, call.weight, call.bias, call.residual, stride, padding)
