"""The CUDA C++ backend of guided_step; the kernel is csrc/guided_step/cuda.cu."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act import cuda as group_norm_act_cuda
from glide_fast.ops.guided_step.arguments import Call, Facts, Step, check_memory, mark_written, why_not
from glide_fast.ops.guided_step.native_arguments import TYPE_CODES, arguments

_DTYPES = tuple(TYPE_CODES)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"x is on {facts.device}, not on a CUDA device"
    return why_not(facts, _DTYPES) or group_norm_act_cuda.why_missing()


def run(call: Call) -> Step:
    """The op for calls that :func:`supports` accepts, on the current stream of x's device; may be captured."""
    library, x = native.load(), call.x
    if library is None:
        raise RuntimeError("guided_step's CUDA kernel was called where it declines")
    check_memory(call)
    result = call.empty_result()
    native_arguments = library.GuidedStep(*arguments(call, result).values())
    with torch.cuda.device_of(x):
        library.cuda.guided_step(native_arguments, torch.cuda.current_stream(x.device).cuda_stream)
    mark_written(call)
    return result
