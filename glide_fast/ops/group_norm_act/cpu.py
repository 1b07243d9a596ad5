"""The C++ backend of group_norm_act for CPUs; the kernel is csrc/group_norm_act/cpu.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result, why_not
from glide_fast.ops.group_norm_act.native_arguments import arguments

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    if facts.windows:
        return "windows are wanted; the kernel writes pictures"
    return why_not(facts, TYPE_CODES) or native.why_without("GroupNormAct")


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
