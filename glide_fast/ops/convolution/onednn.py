"""oneDNN as a backend of convolution: packed weights, with bias and residual added before the one rounding."""

from __future__ import annotations

import torch

from glide_fast.ops.convolution import narrow, packed_weight
from glide_fast.ops.convolution.arguments import Call, Facts
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.window import as_kernel


def supports(facts: Facts) -> str | None:
    """Why it cannot serve this call, or None."""
    reason = packed_weight.why_not(facts.dtype, facts.device)
    if reason is not None:
        return reason
    if not facts.alike:
        return "the operands are on different devices"
    if facts.gradients:
        return "gradients are wanted; the packed convolution has no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x or residual is not channels-last"
    return narrow.why_wrong(facts.device, facts.dtype, facts.window.stride[1], facts.size[1])


def as_measured(facts: Facts) -> str | None:
    """Why a measurement of this backend says nothing of a call."""
    return "the weight is in Winograd's layout, and would be unpacked at every call" if facts.tiled else None


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts. A plain weight is packed at every call."""
    x, bias, residual = call.x, call.bias, call.residual
    _, stride, padding = call.window
    kernel = _kernel(call)
    if bias is not None:
        bias = bias.contiguous()  # oneDNN would read the elements that lie behind its first one
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


def _kernel(call: Call) -> torch.Tensor:
    weight = call.weight
    if not isinstance(weight, PackedWeight):
        return as_kernel(weight)
    packed = weight.packed_for(call.x, call.window)
    return packed if packed is not None else as_kernel(weight.dense())
