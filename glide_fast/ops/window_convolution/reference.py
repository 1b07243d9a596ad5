"""The maths of window_convolution in plain torch: the ground truth for every backend."""

from __future__ import annotations

import torch

from glide_fast.ops.window_convolution.arguments import Call


def run(call: Call) -> torch.Tensor:
    """The result of a call, in its type but computed in fp32 (fp64 for fp64); differentiable."""
    wide = torch.promote_types(call.windows.dtype, torch.float32)
    y = torch.einsum("nhwtc,oct->nohw", call.windows.to(wide), call.weight.to(wide).flatten(2))
    if call.bias is not None:
        y = y + call.bias.to(wide)[:, None, None]
    if call.residual is not None:
        y = y + call.residual
    return y.to(call.windows.dtype).contiguous(memory_format=torch.channels_last)
