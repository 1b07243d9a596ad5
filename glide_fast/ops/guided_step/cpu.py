"""The C++ backend of guided_step for CPUs; the kernel is csrc/cpu/guided_step.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.guided_step.arguments import (
    Call,
    Facts,
    Step,
    address,
    check_memory,
    mark_written,
    outside_the_table,
    why_not,
)

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
_DTYPES = tuple(TYPE_CODES)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    return why_not(facts, _DTYPES) or native.why_missing() or _why_too_old()


def _why_too_old() -> str | None:
    """An editable install keeps its library when the sources change."""
    if hasattr(native.load(), "guided_step"):
        return None
    return "the native library is older than the sources: build it again (pip install -e .)"


def run(call: Call, *, isa: str = "") -> Step:
    """The op for calls that :func:`supports` accepts; ``isa`` forces one of ``glide_fast._C.isas()``.

    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number. Where
    instruction sets differ in fused multiply-adds (in the noise and the exponential only), results agree to 1e-5.
    """
    library, x, model_out, inputs = native.load(), call.x, call.model_out, call.inputs
    if library is None or call.model_spread is None or (inputs is not None and call.input_spread is None):
        raise RuntimeError("guided_step's CPU kernel was called where it declines")
    check_memory(call)
    result = call.result()
    images, channels = x.shape[:2]
    try:
        library.guided_step(
            images,
            channels,
            x.numel() // (images * channels),
            x.data_ptr(),
            model_out.data_ptr(),
            TYPE_CODES[model_out.dtype],
            call.model_spread,
            call.guidance_scale is not None,
            call.scale_by_value,
            address(call.scale_in_memory),
            call.scale_stride,
            call.table.data_ptr(),
            call.table.shape[0],
            call.step.data_ptr(),
            call.step_stride,
            address(call.noise),
            address(call.seeds),
            call.stream,
            address(call.known),
            address(call.known_mask),
            address(call.score),
            address(call.history),
            call.clip,
            call.remember_eps,
            result.x.data_ptr(),
            result.x0.data_ptr(),
            address(result.history),
            address(inputs),
            0 if inputs is None else TYPE_CODES[inputs.dtype],
            call.input_spread or (0, 0, 0),
            call.copies,
            torch.get_num_threads(),
            isa,
        )
    except IndexError:
        raise outside_the_table(call) from None
    mark_written(call)
    return result
