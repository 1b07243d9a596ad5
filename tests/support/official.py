"""Models of classes built as the official package's, which glide_fast does not know: the same tree, names and attributes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class UNetModel(nn.Module):
    """Nothing of it may be reached through an accelerated model."""

    def __init__(self, in_channels: int, model_channels: int) -> None:
        super().__init__()
        raise AssertionError("an official constructor was called")

    def _reached(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("official code was reached")

    forward = convert_to_fp16 = convert_to_fp32 = _reached


class Text2ImUNet(UNetModel):
    def __init__(self, text_ctx: int, *args: Any) -> None:
        super().__init__(*args)

    def _official(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("official code was reached")

    forward = convert_to_fp16 = get_text_emb = del_cache = _official


class SuperResText2ImUNet(Text2ImUNet):
    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, low_res: Any = None, **kwargs: Any) -> Any:
        return super().forward(x, timesteps, **kwargs)


class InpaintText2ImUNet(Text2ImUNet):
    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, inpaint_image: Any = None, **kwargs: Any
    ) -> Any:
        return super().forward(x, timesteps, **kwargs)


class SuperResInpaintText2ImUnet(Text2ImUNet):
    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, low_res: Any = None, **kwargs: Any) -> Any:
        return super().forward(x, timesteps, **kwargs)


_CLASSES = {
    cls.__name__: cls
    for cls in (Text2ImUNet, SuperResText2ImUNet, InpaintText2ImUNet, SuperResInpaintText2ImUnet)
}


def official_twin(model: nn.Module) -> nn.Module:
    """A copy of a model of ours that is of the official class of its name; its layers are of unknown classes too."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if module is not twin and type(module).__module__.startswith("glide_fast.models"):
            module.__class__ = type(type(module).__name__, (nn.Module,), {})
    twin.__class__ = _CLASSES[type(model).__name__]
    return twin
