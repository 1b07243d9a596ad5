"""The maths of resample in plain torch: the ground truth for every backend."""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops import checks
from glide_fast.ops.resample.arguments import NEAREST_X2, TENSORS, Call


def run_unchecked(call: Call) -> torch.Tensor:
    """The result of a call, without checks, so that a compiler can trace it."""
    x, bias, residual = call.x, call.bias, call.residual
    wide = torch.promote_types(x.dtype, torch.float32)
    s = x
    if bias is not None or residual is not None:
        total = x.to(wide)
        if bias is not None:
            total = total + bias.to(wide).view(-1, 1, 1)
        if residual is not None:
            total = total + residual.to(wide)
        s = total.to(x.dtype)
    if call.mode == NEAREST_X2:
        n, c, height, width = x.shape
        pixels = s.permute(0, 2, 3, 1)[:, :, None, :, None]
        y = pixels.expand(n, height, 2, width, 2, c).reshape(n, 2 * height, 2 * width, c).permute(0, 3, 1, 2)
    else:
        top, bottom = s[:, :, ::2].to(wide), s[:, :, 1::2].to(wide)
        above, below = top[..., ::2] + top[..., 1::2], bottom[..., ::2] + bottom[..., 1::2]
        y = ((above + below) * 0.25).to(x.dtype)
    if x.stride(1) != 1:
        return y.contiguous()
    # By permutations, since torch.vmap does not support memory formats.
    return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def reference(*arguments: Any, **options: Any) -> torch.Tensor:
    """The result for the arguments of :func:`glide_fast.ops.resample`, without checks."""
    return run_unchecked(Call(*arguments, **options))


def run(call: Call) -> torch.Tensor:
    """The op for every call; refuses tensors on different devices before anything is computed."""
    checks.together(TENSORS, call.tensors, call.x.device)
    return run_unchecked(call)
