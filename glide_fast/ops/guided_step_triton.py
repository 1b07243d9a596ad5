"""The Triton backend of guided_step; the kernel is kernels/guided_step.py."""

from __future__ import annotations

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.guided_step_call import Call, Step, spread, why_not

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(call: Call) -> str | None:
    """Why the kernel cannot serve this call, or None. Under TRITON_INTERPRET=1 it also runs on the CPU, slowly."""
    if call.tracing:
        return "torch.compile is tracing; the custom op glide_fast::guided_step stands for the call there"
    return why_not(call, _DTYPES) or triton_runtime.why_not(call.device, "guided_step")


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
    """The op for calls that :func:`supports` accepts."""
    kernels, _ = triton_runtime.load("guided_step")
    model_strides = spread(model_out)
    input_strides = (0, 0, 0) if inputs is None else spread(inputs)
    if kernels is None or model_strides is None or input_strides is None:
        raise RuntimeError("guided_step's Triton kernel was called where it declines")
    result = Step.like(x, history) if out is None else out
    images = x.shape[0]
    elements = x[0].numel()
    positions = elements // x.shape[1]
    scale = guidance_scale if isinstance(guidance_scale, torch.Tensor) else None
    with torch.cuda.device_of(x):
        kernels.guided_step_kernel[((elements + kernels.BLOCK - 1) // kernels.BLOCK, images)](
            x,
            model_out,
            table,
            step,
            noise,
            seeds,
            known,
            known_mask,
            score,
            history,
            result.x,
            result.x0,
            result.history,
            inputs,
            scale,
            0.0 if guidance_scale is None or scale is not None else float(guidance_scale),
            stream,
            images,
            table.shape[0],
            elements,
            positions,
            step.stride(0) if step.dim() else 0,
            0 if scale is None or scale.numel() == 1 else 1,
            *model_strides,
            *input_strides,
            GUIDED=guidance_scale is not None,
            CLIP=clip,
            REMEMBER_EPS=remember_eps,
            MODEL_DENSE=model_strides[1:] == (positions, 1),
            INPUT_DENSE=input_strides[1:] == (positions, 1),
            COPIES=0 if inputs is None else inputs.shape[0] // images,
            BLOCK=kernels.BLOCK,
            num_warps=kernels.NUM_WARPS,
            enable_fp_fusion=False,
        )
    return result
