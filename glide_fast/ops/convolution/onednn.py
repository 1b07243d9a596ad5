"""oneDNN as a backend of convolution: packed weights, with bias and residual added before the one rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops.convolution import narrow, packed_weight
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.window import Window, as_kernel, kernel_size

if TYPE_CHECKING:
    from glide_fast.ops.convolution import Call


def supports(call: Call) -> str | None:
    """Why it cannot serve this call, or None."""
    reason = packed_weight.why_not(call.dtype, call.device)
    if reason is not None:
        return reason
    if not call.alike:
        return "the operands are on different devices"
    if call.gradients:
        return "gradients are wanted; the packed convolution has no backward pass"
    if call.empty:
        return "x holds no elements"
    if not call.channels_last:
        return "x or residual is not channels-last"
    return narrow.why_wrong(call.device, call.dtype, call.window.stride[1], call.size[1])


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts. A plain weight is packed at every call."""
    kernel = _kernel(x, weight, stride, padding)
    # torch keeps these operators for its own compiler: after the operands come dilation, groups and what to fuse.
    result: torch.Tensor
    if residual is None:
        result = torch.ops.mkldnn._convolution_pointwise(
            x, kernel, bias, padding, stride, (1, 1), 1, "none", [], ""
        )
    else:
        # With a second operand torch insists on a bias of x's type, which it does not without one.
        same_type = None if bias is None else bias.to(x.dtype)
        result = torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual, kernel, same_type, padding, stride, (1, 1), 1, "add", None, None, [], None
        )
    return result


def _kernel(
    x: torch.Tensor, weight: torch.Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> torch.Tensor:
    if not isinstance(weight, PackedWeight):
        return as_kernel(weight)
    packed = weight.packed_for(x, Window(kernel_size(weight), stride, padding))
    return packed if packed is not None else as_kernel(weight.dense())
