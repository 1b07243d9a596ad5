"""Checks of the device that a pipeline runs on, and of its precision."""

from __future__ import annotations

import torch

from glide_fast.errors import InvalidInputError, invalid

_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def resolve_device(device: torch.device | str | None) -> torch.device:
    """``device`` as a torch.device, checked to work on this machine; None is the GPU if there is one, else the CPU."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # As a tensor there names it: with the number that "cuda" leaves out.
        resolved = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise invalid("device", device, f"a device that torch can use here ({reason})") from error
    if resolved.type == "meta":
        raise invalid("device", device, "a device that computes; meta tensors hold no values")
    return resolved


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The type of the torso's weights and activations on ``device``.

    None is fp16 on a GPU, as the released code runs, and fp32 elsewhere. fp16 on a CPU is refused.
    """
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    resolved = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in _DTYPES.values():
        raise invalid("dtype", dtype, "fp32, bf16 or fp16, as torch dtypes or by these names")
    refuse_half_on_cpu(resolved, device)
    return resolved


def refuse_half_on_cpu(dtype: torch.dtype, device: torch.device) -> None:
    """InvalidInputError for fp16 on a CPU, where convolutions are hundreds of times slower than in fp32."""
    if dtype == torch.float16 and device.type == "cpu":
        raise InvalidInputError(
            "dtype: got fp16 on a CPU, where it is hundreds of times slower than fp32; accepted: fp32 or bf16"
        )
