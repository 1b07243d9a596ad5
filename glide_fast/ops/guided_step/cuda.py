"""The CUDA C++ backend of guided_step; the kernel is csrc/cuda/guided_step.cu."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act import cuda as group_norm_act_cuda
from glide_fast.ops.guided_step.arguments import (
    Call,
    Facts,
    Step,
    address,
    check_memory,
    mark_written,
    why_not,
)

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_DTYPES = tuple(TYPE_CODES)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"x is on {facts.device}, not on a CUDA device"
    return why_not(facts, _DTYPES) or group_norm_act_cuda.why_missing()


def run(call: Call) -> Step:
    """The op for calls that :func:`supports` accepts, on the current stream of x's device; may be captured."""
    library, x, inputs = native.load(), call.x, call.inputs
    if library is None or call.model_spread is None or (inputs is not None and call.input_spread is None):
        raise RuntimeError("guided_step's CUDA kernel was called where it declines")
    check_memory(call)
    result = call.result()
    samples, channels = x.shape[:2]
    g = library.cuda.GuidedStep()
    g.samples, g.channels, g.positions = samples, channels, x.numel() // (samples * channels)
    g.x, g.x_out, g.x0_out = x.data_ptr(), result.x.data_ptr(), result.x0.data_ptr()
    g.known, g.known_mask, g.score = address(call.known), address(call.known_mask), address(call.score)
    g.history_in, g.history_out = address(call.history), address(result.history)
    g.clip, g.remember_eps = call.clip, call.remember_eps
    g.model_out = (call.model_out.data_ptr(), TYPE_CODES[call.model_out.dtype], *call.model_spread)
    g.guided, g.guidance = call.guidance_scale is not None, call.scale_by_value
    g.guidance_data, g.guidance_stride = address(call.scale_in_memory), call.scale_stride
    g.table, g.table_rows = call.table.data_ptr(), call.table.shape[0]
    g.step, g.step_stride = call.step.data_ptr(), call.step_stride
    g.noise, g.seeds, g.stream = address(call.noise), address(call.seeds), call.stream
    if inputs is not None and call.input_spread is not None:
        g.next = (inputs.data_ptr(), TYPE_CODES[inputs.dtype], *call.input_spread)
        g.copies = call.copies
    with torch.cuda.device_of(x):
        library.cuda.guided_step(g, torch.cuda.current_stream(x.device).cuda_stream)
    mark_written(call)
    return result
