"""torch's own convolution as a backend of convolution, for CUDA devices: cuDNN, with bias and residual after it.

cuDNN's bias is a launch of its own in torch, and so is the residual. On a device the runtime therefore convolves without
either and hands both to the norm that comes next, which adds them where it reads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glide_fast.ops.convolution.arguments import Call, Facts
from glide_fast.ops.convolution.window import as_kernel


def supports(facts: Facts) -> str | None:
    """Why it cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"x is on {facts.device}, not on a CUDA device"
    if not facts.alike:
        return "the operands are on different devices"
    return None


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; differentiable. Any layout; channels-last is the fast one."""
    x, bias = call.x, call.bias
    _, stride, padding = call.window
    y = F.conv2d(x, as_kernel(call.weight), None if bias is None else bias.to(x.dtype), stride, padding)
    return y if call.residual is None else y + call.residual
