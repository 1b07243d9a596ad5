"""The C++ backend of group_norm_act for CPUs; the kernel is csrc/group_norm_act/cpu.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result
from glide_fast.ops.group_norm_act.native_arguments import arguments

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    for name, dtype in (
        ("x", facts.dtype),
        ("weight", facts.affine_dtype),
        ("scale", facts.film_dtype),
        ("x_bias", facts.x_bias_dtype),
    ):
        if dtype is not None and dtype not in TYPE_CODES:
            return f"{name} is {dtype}; the kernel takes float32 and bfloat16"
    if not facts.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on the CPU"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x, x2 or residual is not channels-last"
    return native.why_without("GroupNormAct")


def run(call: Call, *, out: Result | None = None, isa: str = "") -> Result:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels-last) takes the result; ``isa`` forces one of ``glide_fast._C.isas()``.
    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library = native.load()
    if library is None:
        raise RuntimeError("group_norm_act's CPU kernel was called where it declines")
    result = call.empty_result() if out is None else out
    given = library.GroupNormAct(*arguments(call, result).values())
    library.group_norm_act(given, torch.get_num_threads(), isa)
    return result
