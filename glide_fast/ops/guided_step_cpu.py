"""The C++ backend of guided_step for CPUs; the kernel is csrc/cpu/guided_step.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.guided_step_call import Call, Step, address, spread, why_not

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
_DTYPES = tuple(TYPE_CODES)


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.device != "cpu":
        return f"x is on {call.device}, not on the CPU"
    if call.tracing:
        return "torch.compile is tracing; the custom op glide_fast::guided_step stands for the call there"
    return why_not(call, _DTYPES) or native.why_missing() or _why_too_old()


def _why_too_old() -> str | None:
    """An editable install keeps its library when the sources change."""
    if hasattr(native.load(), "guided_step"):
        return None
    return "the native library is older than the sources: build it again (pip install -e .)"


def run(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    seeds: torch.Tensor | None = None,
    stream: int = 0,
    guidance_scale: float | torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
    clip: bool = True,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
    inputs: torch.Tensor | None = None,
    out: Step | None = None,
    isa: str = "",
) -> Step:
    """The op for calls that :func:`supports` accepts; ``isa`` forces one of ``glide_fast._C.isas()``.

    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number. Where
    instruction sets differ in fused multiply-adds (in the noise and the exponential only), results agree to 1e-5.
    """
    library = native.load()
    model_strides = spread(model_out)
    input_strides = (0, 0, 0) if inputs is None else spread(inputs)
    if library is None or model_strides is None or input_strides is None:
        raise RuntimeError("guided_step's CPU kernel was called where it declines")
    result = Step.like(x, history) if out is None else out
    images, channels = x.shape[:2]
    tensor = guidance_scale if isinstance(guidance_scale, torch.Tensor) else None
    library.guided_step(
        images,
        channels,
        x.numel() // (images * channels),
        x.data_ptr(),
        model_out.data_ptr(),
        TYPE_CODES[model_out.dtype],
        model_strides,
        guidance_scale is not None,
        0.0 if guidance_scale is None or tensor is not None else guidance_scale,
        address(tensor),
        0 if tensor is None or tensor.numel() == 1 else 1,
        table.data_ptr(),
        table.shape[0],
        step.data_ptr(),
        step.stride(0) if step.dim() else 0,
        address(noise),
        address(seeds),
        stream,
        address(known),
        address(known_mask),
        address(score),
        address(history),
        clip,
        remember_eps,
        result.x.data_ptr(),
        result.x0.data_ptr(),
        address(result.history),
        address(inputs),
        0 if inputs is None else TYPE_CODES[inputs.dtype],
        input_strides,
        0 if inputs is None else inputs.shape[0] // images,
        torch.get_num_threads(),
        isa,
    )
    return result
