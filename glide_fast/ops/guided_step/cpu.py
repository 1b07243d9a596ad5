"""The C++ backend of guided_step for CPUs; the kernel is csrc/guided_step/cpu.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.guided_step.arguments import (
    Call,
    Facts,
    Step,
    check_memory,
    mark_written,
    outside_the_table,
    why_not,
)
from glide_fast.ops.guided_step.native_arguments import arguments

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
_DTYPES = tuple(TYPE_CODES)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    return why_not(facts, _DTYPES) or native.why_without("GuidedStep")


def run(call: Call, *, isa: str = "") -> Step:
    """The op for calls that :func:`supports` accepts; ``isa`` forces one of ``glide_fast._C.isas()``.

    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number. Where
    instruction sets differ in fused multiply-adds (in the noise and the exponential only), results agree to 1e-5.
    """
    library = native.load()
    if library is None:
        raise RuntimeError("guided_step's CPU kernel was called where it declines")
    check_memory(call)
    result = call.empty_result()
    native_arguments = library.GuidedStep(*arguments(call, result).values())
    try:
        library.guided_step(native_arguments, torch.get_num_threads(), isa)
    except IndexError:
        raise outside_the_table(call) from None
    mark_written(call)
    return result
