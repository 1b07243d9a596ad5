"""The maths of group_norm_act in plain torch: the ground truth for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from glide_fast.ops import checks, plain_tensor
from glide_fast.ops.group_norm_act.arguments import TAPS, TENSORS, Call, Result


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type that everything is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reference_sum(
    x: torch.Tensor, residual: torch.Tensor | None = None, x_bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What is normalised, for the channels of ``x``: ``x + x_bias + residual``, rounded to x's type once."""
    if residual is None and x_bias is None:
        return x
    wide = _wide(x.dtype)
    total = x.to(wide)
    if x_bias is not None:
        total = total + x_bias.to(wide).view(-1, *([1] * (x.dim() - 2)))
    if residual is not None:
        total = total + residual.to(wide)
    return total.to(x.dtype)


Norm = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor, float], torch.Tensor]


def _group_norm(
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """``torch.group_norm`` in any layout under ``torch.vmap`` and forward-mode differentiation, exact for a single value."""
    values = x.reshape(
        x.shape[0], groups, math.prod(x.shape[1:]) // groups
    )  # -1 would be unknown for an empty batch
    centred = values - values.mean(-1, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    per_channel = (-1, *([1] * (x.dim() - 2)))
    return y.reshape(x.shape) * weight.view(per_channel) + bias.view(per_channel)


def normalise(call: Call, total: torch.Tensor, norm: Norm = torch.group_norm) -> torch.Tensor:
    """``y`` of a call, where ``total`` is its :func:`reference_sum`; ``norm`` is ``torch.group_norm``, or stands in for it."""
    wide = _wide(total.dtype)
    s = total.to(wide)
    if call.x2 is not None:
        s = torch.cat([s, call.x2.to(wide)], dim=1)
    if s.numel() and s.numel() == s.shape[0] * call.groups:
        norm = _group_norm  # torch's takes the mean off last, and leaves a rounding of the large products of a single value
    y = norm(s, call.groups, call.weight.to(wide), call.bias.to(wide), call.eps)
    if call.scale is not None and call.shift is not None:
        per_channel = (*call.scale.shape, *([1] * (s.dim() - 2)))
        y = y * (1 + call.scale.to(wide).view(per_channel)) + call.shift.to(wide).view(per_channel)
    if call.silu:
        y = F.silu(y)
    if call.resample == "nearest_x2":
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    elif call.resample == "mean_2x2":
        y = F.avg_pool2d(y, 2)
    y = y.to(call.out_dtype or total.dtype)
    return windows(y) if call.windows else y


def windows(y: torch.Tensor) -> torch.Tensor:
    """The 3x3 neighbourhood of every pixel of ``y`` ``[N, C, H, W]``, zeros beyond the picture: ``[N, H, W, 9, C]``."""
    height, width = y.shape[2:]
    padded = F.pad(y.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return torch.stack(
        [padded[:, tap // 3 : tap // 3 + height, tap % 3 : tap % 3 + width] for tap in range(TAPS)], dim=3
    )


def reference(*arguments: Any, **options: Any) -> torch.Tensor:
    """``y`` for arguments as those of :func:`glide_fast.ops.group_norm_act`, which are not checked."""
    call = Call(*arguments, **options)
    return normalise(call, reference_sum(call.x, call.residual, call.x_bias))


def run_unchecked(call: Call) -> Result:
    """The result of a call, for a compiler too."""
    plain = torch.compiler.is_compiling() or plain_tensor.why_not(TENSORS, call.tensors) is None
    total = reference_sum(call.x, call.residual, call.x_bias)
    y = normalise(call, total, torch.group_norm if plain else _group_norm)
    return Result(y, total if call.keep_sum else None)


def run(call: Call) -> Result:
    """The op for every call; refuses types and devices that torch would stop at half-way."""
    checks.any_floating(TENSORS, call.tensors)
    checks.together(TENSORS, call.tensors, call.x.device)
    return run_unchecked(call)
