"""Names and shapes recorded from the official models, and small stand-ins built from them."""

from __future__ import annotations

from typing import Any

import torch
from support.golden import facts
from torch import Tensor, nn

Keys = dict[str, list[int]]

UNETS: dict[str, Keys] = {
    name.removeprefix("unet/"): entry["keys"]
    for name, entry in facts().items()
    if name.startswith("unet/") and "keys" in entry
}
CLIP_TEXT: Keys = facts()["clip"]["text_keys"]
CLIP_IMAGE: Keys = facts()["clip"]["image_keys"]


def options_of(case: str) -> dict[str, Any]:
    """The options that a recorded UNet was built with."""
    return facts()[f"unet/{case}"]["options"]


def meta(keys: Keys) -> dict[str, Tensor]:
    """A state dict with those names and shapes, and no memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in keys.items()}


def small(keys: Keys) -> dict[str, Tensor]:
    """A state dict with those names and at most 3 rows a tensor, no two tensors with the same values."""
    return {
        name: torch.full((min(shape[0], 3), *shape[1:]), float(n))
        for n, (name, shape) in enumerate(keys.items())
    }


def model_of(state: dict[str, Tensor], dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    """A module whose state dict has the names and shapes of `state`, filled with -1."""
    model = nn.Module()
    for name, tensor in state.items():
        *parents, leaf = name.split(".")
        owner = model
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.register_parameter(
            leaf, nn.Parameter(torch.full(tensor.shape, -1.0, dtype=dtype, device=device))
        )
    return model
