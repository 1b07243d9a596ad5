"""Small models with random weights, and arguments for their calls."""

from __future__ import annotations

from typing import Any

import torch
from support.tiny import MODEL

from glide_fast.models.factory import build
from glide_fast.models.text2im import Text2ImUNet

SIZE = 16

KINDS: dict[str, dict[str, Any]] = {
    "base": {},
    "upsampler": {"super_res": True},
    "inpaint": {"inpaint": True},
    "upsampler-inpaint": {"super_res": True, "inpaint": True},
    "strided": {"resblock_updown": False, "num_res_blocks": 2},
    "added-embedding": {"use_scale_shift_norm": False},
    "no-text": {"xf_width": 0},
    "narrowing": {"channel_mult": "2,1"},
}


def tiny_model(kind: str, seed: int = 0, **changes: Any) -> Text2ImUNet:
    """A plain model in evaluation mode, without layers that are zero; ``changes``: options that differ from the usual ones."""
    torch.manual_seed(seed)
    model, _ = build(MODEL | {"vocab_rows": 8, "use_fp16": False} | KINDS[kind] | changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def call_arguments(kind: str, batch: int = 2, seed: int = 1) -> dict[str, Any]:
    """Keyword arguments of a call beside x and timesteps."""
    generator = torch.Generator().manual_seed(seed)

    def pictures(channels: int, size: int) -> torch.Tensor:
        return torch.rand(batch, channels, size, size, generator=generator) * 2 - 1

    arguments: dict[str, Any] = {}
    if kind != "no-text":
        arguments["tokens"] = torch.randint(0, 100, (batch, 8), generator=generator)
        arguments["mask"] = torch.arange(8) < torch.randint(1, 9, (batch, 1), generator=generator)
    if "upsampler" in kind:
        arguments["low_res"] = pictures(3, SIZE // 2)
    if "inpaint" in kind:
        arguments["inpaint_image"] = pictures(3, SIZE)
        arguments["inpaint_mask"] = (pictures(1, SIZE) > 0).float()
    return arguments


def states(batch: int = 2, seed: int = 2) -> torch.Tensor:
    """Noise of a picture's size."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
