"""Stands for ``glide_text2im.unet``.

Of the three classes at the end no released model is made: they put a picture beside the input of a UNet without text.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from glide_fast.models.conditioning import masked_image, resized_low_res
from glide_fast.models.unet import (
    AttentionBlock,
    Downsample,
    QKVAttention,
    ResBlock,
    TimestepBlock,
    TimestepEmbedSequential,
    UNetModel,
    Upsample,
)

__all__ = [
    "AttentionBlock",
    "Downsample",
    "InpaintUNetModel",
    "QKVAttention",
    "ResBlock",
    "SuperResInpaintUNetModel",
    "SuperResUNetModel",
    "TimestepBlock",
    "TimestepEmbedSequential",
    "UNetModel",
    "Upsample",
]


class _WiderInput(UNetModel):
    """A UNet whose ``in_channels`` argument counts the picture's channels, not those put beside them."""

    pictures: ClassVar[int]
    masks: ClassVar[int]

    def __init__(self, in_channels: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(self.pictures * in_channels + self.masks, *args, **kwargs)


class SuperResUNetModel(_WiderInput):
    """Reads the low-resolution picture, resized bilinearly, beside x."""

    pictures = 2
    masks = 0

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, timesteps: torch.Tensor, low_res: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        return super().forward(torch.cat([x, resized_low_res(x, low_res)], dim=1), timesteps, **kwargs)


class InpaintUNetModel(_WiderInput):
    """Reads the masked picture and the mask (1 = keep) beside x."""

    pictures = 2
    masks = 1

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        inpaint_image: torch.Tensor | None = None,
        inpaint_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        extra = masked_image(x, inpaint_image, inpaint_mask)
        return super().forward(torch.cat([x, *extra], dim=1), timesteps, **kwargs)


class SuperResInpaintUNetModel(_WiderInput):
    """Reads the masked picture, the mask and the resized low-resolution picture beside x."""

    pictures = 3
    masks = 1

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        inpaint_image: torch.Tensor | None = None,
        inpaint_mask: torch.Tensor | None = None,
        low_res: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        extra = [*masked_image(x, inpaint_image, inpaint_mask), resized_low_res(x, low_res)]
        return super().forward(torch.cat([x, *extra], dim=1), timesteps, **kwargs)
