"""A call of group_norm_act as the native library takes it, for CPUs and for CUDA."""

from __future__ import annotations

import math

import torch

from glide_fast.ops.group_norm_act.arguments import RESAMPLINGS, Call, Result, result_rows
from glide_fast.ops.layout import channel_rows

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
RESAMPLE_CODES: dict[str | None, int] = {None: 0} | {name: i for i, name in enumerate(RESAMPLINGS, start=1)}
_ABSENT = (0, 0, 0)


def arguments(call: Call, result: Result) -> dict[str, object]:
    """What ``glide_fast._C.GroupNormAct`` is made of, by name and in its order.

    Raises:
        RuntimeError: for tensors that are not channels-last, which the backends decline.
    """
    x, y, total = call.x, result.y, result.sum if call.adds else None
    samples, x_channels, *sides = x.shape
    return {
        "dtype": TYPE_CODES[x.dtype],
        "out_dtype": TYPE_CODES[y.dtype],
        "samples": samples,
        "rows": math.prod(sides),
        "x_channels": x_channels,
        "channels": call.channels,
        "groups": call.groups,
        "width": sides[-1] if sides else 1,
        "x": _rows(x, call.x_rows),
        "x2": _rows(call.x2, call.x2_rows),
        "residual": _rows(call.residual, call.residual_rows),
        "sum": _ABSENT if total is None else _rows(total, channel_rows(total)),
        "y": _rows(y, result_rows(call, y)),
        "x_bias": _vector(call.x_bias),
        "weight": _vector(call.weight),
        "bias": _vector(call.bias),
        "scale": _vector(call.scale),
        "shift": _vector(call.shift),
        "eps": call.eps,
        "silu": call.silu,
        "resample": RESAMPLE_CODES[call.resample],
        "windows": call.windows,
    }


def _rows(tensor: torch.Tensor | None, strides: tuple[int, int] | None) -> tuple[int, int, int]:
    """Address, and strides between samples and between positions."""
    if tensor is None:
        return _ABSENT
    if strides is None:
        raise RuntimeError(
            "group_norm_act's native kernels were called where they decline: not channels-last"
        )
    return tensor.data_ptr(), *strides


def _vector(tensor: torch.Tensor | None) -> tuple[int, int, int]:
    """Address, type and stride between samples: of a vector of channels, or of one for each sample."""
    if tensor is None:
        return _ABSENT
    return tensor.data_ptr(), TYPE_CODES[tensor.dtype], tensor.stride(0) if tensor.dim() == 2 else 0
