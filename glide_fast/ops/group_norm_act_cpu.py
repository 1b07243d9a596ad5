"""The C++ backend of group_norm_act for CPUs; the kernel is csrc/cpu/group_norm_act.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act_call import Call, Facts, Result
from glide_fast.ops.layout import channel_rows

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    for name, dtype in (("x", facts.dtype), ("weight", facts.affine_dtype), ("scale", facts.film_dtype)):
        if dtype is not None and dtype not in TYPE_CODES:
            return f"{name} is {dtype}; the kernel takes float32 and bfloat16"
    if facts.extras:
        return f"{facts.extras} given; the kernel takes none of these"
    if not facts.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on the CPU"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.tracing:
        return "torch.compile is tracing; it cannot see into the kernel"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x is not channels-last"
    return native.why_missing()


def run(call: Call, *, out: Result | None = None, isa: str = "") -> Result:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels-last) takes the result; ``isa`` forces one of ``glide_fast._C.isas()``.
    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library = native.load()
    x, weight, bias, scale, shift = call.x, call.weight, call.bias, call.scale, call.shift
    result = call.empty_result() if out is None else out
    y = result.y
    x_strides, y_strides = call.x_rows, channel_rows(y)
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
        call.groups,
        *x_strides,
        *y_strides,
        weight.data_ptr(),
        bias.data_ptr(),
        TYPE_CODES[weight.dtype],
        *film,
        call.eps,
        call.silu,
        torch.get_num_threads(),
        isa,
    )
    return result
