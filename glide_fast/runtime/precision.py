"""The fastest type for the torso's weights and activations on a device."""

from __future__ import annotations

import torch


def fastest_dtype(device: torch.device) -> torch.dtype:
    """fp16 on a GPU, as the released code runs; bf16 on a CPU with AVX-512 BF16 or AMX, whose products it halves; else fp32."""
    if device.type == "cuda":
        return torch.float16
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32
