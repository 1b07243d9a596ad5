"""The Triton backend of guided_step; the kernel is kernels/guided_step.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import triton_runtime
from glide_fast.ops.guided_step.arguments import (
    Call,
    Facts,
    Step,
    check_memory,
    check_step,
    mark_written,
    why_not,
)
from glide_fast.plans.file import Plan

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None. Under TRITON_INTERPRET=1 it also runs on the CPU, slowly."""
    return why_not(facts, _DTYPES) or triton_runtime.why_not(facts.device, "guided_step")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes, the one that it uses by itself first."""
    return triton_runtime.plans("guided_step", call)


def run(call: Call, *, plan: Plan | None = None) -> Step:
    """The op for calls that :func:`supports` accepts.

    Raises:
        ValueError: for a plan that is none of :func:`plans`.
    """
    check_step(call)
    check_memory(call)
    result = launch(call, plan)
    mark_written(call)
    return result


def launch(call: Call, plan: Plan | None = None) -> Step:
    """Launch the kernel, without checks; for a step outside the table all results of the image are NaN."""
    kernels, _ = triton_runtime.load("guided_step")
    x, model_spread = call.x, call.model_spread
    input_spread = (0, 0, 0) if call.inputs is None else call.input_spread
    if kernels is None or model_spread is None or input_spread is None:
        raise RuntimeError("guided_step's Triton kernel was called where it declines")
    result = call.empty_result()
    candidates = kernels.plans_of(call)
    cut = candidates[0] if plan is None else triton_runtime.cut_of(kernels.Plan, plan, candidates)
    images = x.shape[0]
    elements = x[0].numel()
    positions = elements // x.shape[1]
    with torch.cuda.device_of(x):
        kernels.guided_step_kernel[((elements + cut.block - 1) // cut.block, images)](
            x,
            call.model_out,
            call.table,
            call.step,
            call.noise,
            call.seeds,
            call.known,
            call.known_mask,
            call.score,
            call.history,
            *result,
            call.inputs,
            call.scale_in_memory,
            call.scale_by_value,
            call.stream,
            images,
            call.table.shape[0],
            elements,
            positions,
            call.step_stride,
            call.scale_stride,
            *model_spread,
            *input_spread,
            GUIDED=call.guidance_scale is not None,
            CLIP=call.clip,
            REMEMBER_EPS=call.remember_eps,
            MODEL_DENSE=model_spread[1:] == (positions, 1),
            INPUT_DENSE=input_spread[1:] == (positions, 1),
            COPIES=call.copies,
            BLOCK=cut.block,
            num_warps=cut.warps,
            enable_fp_fusion=False,
        )
    return result
