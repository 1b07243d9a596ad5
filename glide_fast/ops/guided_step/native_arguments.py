"""The arguments of a call of guided_step in the form that the native library takes, for CPUs and for CUDA."""

from __future__ import annotations

import torch

from glide_fast.ops.guided_step.arguments import Call, Spread, Step, address

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def arguments(call: Call, result: Step) -> dict[str, object]:
    """The arguments of the constructor of ``glide_fast._C.GuidedStep``, by name and in order.

    Raises:
        RuntimeError: for positions that are not evenly spaced in memory, which the backends decline.
    """
    x = call.x
    samples, channels = x.shape[:2]
    return {
        "samples": samples,
        "channels": channels,
        "positions": x.numel() // (samples * channels),
        "x": x.data_ptr(),
        "model_out": _images(call.model_out, call.model_spread),
        "guided": call.guidance_scale is not None,
        "guidance_scale": call.scale_by_value,
        "guidance_scales": address(call.scale_in_memory),
        "guidance_stride": call.scale_stride,
        "table": call.table.data_ptr(),
        "table_rows": call.table.shape[0],
        "step": call.step.data_ptr(),
        "step_stride": call.step_stride,
        "noise": address(call.noise),
        "seeds": address(call.seeds),
        "stream": call.stream,
        "known": address(call.known),
        "known_mask": address(call.known_mask),
        "score": address(call.score),
        "history": address(call.history),
        "clip": call.clip,
        "remember_eps": call.remember_eps,
        "next_x": result.x.data_ptr(),
        "x0": result.x0.data_ptr(),
        "next_history": address(result.history),
        "inputs": _images(call.inputs, call.input_spread),
        "copies": call.copies,
    }


def _images(tensor: torch.Tensor | None, spread: Spread | None) -> tuple[int, int, int, int, int]:
    """Address, type, and strides between samples, channels and positions."""
    if tensor is None:
        return 0, 0, 0, 0, 0
    if spread is None:
        raise RuntimeError(
            "guided_step's native kernels were called where they decline: positions not evenly spaced"
        )
    return tensor.data_ptr(), TYPE_CODES[tensor.dtype], *spread
