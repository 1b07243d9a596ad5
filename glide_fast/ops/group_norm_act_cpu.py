"""The C++ backend of group_norm_act for CPUs; the kernel is csrc/cpu/group_norm_act.kernel.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from glide_fast.ops import native
from glide_fast.ops.layout import channel_rows

if TYPE_CHECKING:
    from glide_fast.ops.group_norm_act import Call

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.device != "cpu":
        return f"x is on {call.device}, not on the CPU"
    for name, dtype in (("x", call.dtype), ("weight", call.affine_dtype), ("scale", call.film_dtype)):
        if dtype is not None and dtype not in TYPE_CODES:
            return f"{name} is {dtype}; the kernel takes float32 and bfloat16"
    if not call.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on the CPU"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.tracing:
        return "torch.compile is tracing; it cannot see into the kernel"
    if call.empty:
        return "x holds no elements"
    if not call.channels_last:
        return "x is not channels-last"
    return native.why_missing()


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
    *,
    out: torch.Tensor | None = None,
    isa: str = "",
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    ``out`` (shape and type of ``x``, channels-last) takes the result; ``isa`` forces one of ``glide_fast._C.isas()``.
    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library = native.load()
    y = torch.empty_like(x) if out is None else out
    x_strides, y_strides = channel_rows(x), channel_rows(y)
    if library is None or x_strides is None or y_strides is None:
        raise RuntimeError("group_norm_act's CPU kernel was called where it declines")
    samples, channels = x.shape[:2]
    film = (0, 0, 0, 0, 0)
    if scale is not None and shift is not None:
        film = (scale.data_ptr(), shift.data_ptr(), TYPE_CODES[scale.dtype], scale.stride(0), shift.stride(0))
    library.group_norm_act(
        x.data_ptr(),
        y.data_ptr(),
        TYPE_CODES[x.dtype],
        samples,
        x.numel() // (samples * channels),
        channels,
        groups,
        *x_strides,
        *y_strides,
        weight.data_ptr(),
        bias.data_ptr(),
        TYPE_CODES[weight.dtype],
        *film,
        eps,
        silu,
        torch.get_num_threads(),
        isa,
    )
    return y
