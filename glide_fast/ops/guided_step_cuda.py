"""The CUDA C++ backend of guided_step; the kernel is csrc/cuda/guided_step.cu."""

from __future__ import annotations

import torch

from glide_fast.ops import group_norm_act_cuda, native
from glide_fast.ops.guided_step_call import Call, Step, address, spread, why_not

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_DTYPES = tuple(TYPE_CODES)


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if call.device != "cuda":
        return f"x is on {call.device}, not on a CUDA device"
    if call.tracing:
        return "torch.compile is tracing; the custom op glide_fast::guided_step stands for the call there"
    return why_not(call, _DTYPES) or group_norm_act_cuda.why_missing()


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
) -> Step:
    """The op for calls that :func:`supports` accepts, on the current stream of x's device; may be captured."""
    library = native.load()
    model_strides = spread(model_out)
    input_strides = None if inputs is None else spread(inputs)
    if library is None or model_strides is None or (inputs is not None and input_strides is None):
        raise RuntimeError("guided_step's CUDA kernel was called where it declines")
    result = Step.like(x, history) if out is None else out
    samples, channels = x.shape[:2]
    g = library.cuda.GuidedStep()
    g.samples, g.channels, g.positions = samples, channels, x.numel() // (samples * channels)
    g.x, g.x_out, g.x0_out = x.data_ptr(), result.x.data_ptr(), result.x0.data_ptr()
    g.known, g.known_mask, g.score = address(known), address(known_mask), address(score)
    g.history_in, g.history_out, g.remember_eps = address(history), address(result.history), remember_eps
    g.clip = clip
    g.model_out = (model_out.data_ptr(), TYPE_CODES[model_out.dtype], *model_strides)
    if isinstance(guidance_scale, torch.Tensor):
        g.guided, g.guidance_data = True, guidance_scale.data_ptr()
        g.guidance_stride = 0 if guidance_scale.numel() == 1 else 1
    elif guidance_scale is not None:
        g.guided, g.guidance = True, float(guidance_scale)
    g.table, g.table_rows = table.data_ptr(), table.shape[0]
    g.step, g.step_stride = step.data_ptr(), step.stride(0) if step.dim() else 0
    g.noise, g.seeds, g.stream = address(noise), address(seeds), stream
    if inputs is not None and input_strides is not None:
        g.next = (inputs.data_ptr(), TYPE_CODES[inputs.dtype], *input_strides)
        g.copies = inputs.shape[0] // samples
    with torch.cuda.device_of(x):
        library.cuda.guided_step(g, torch.cuda.current_stream(x.device).cuda_stream)
    return result
