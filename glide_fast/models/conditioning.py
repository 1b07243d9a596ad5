"""Extra picture inputs of the upsampler and the inpainting models: how each is laid beside x on the channel axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.errors import invalid


def resized_low_res(x: torch.Tensor, low_res: torch.Tensor | None) -> torch.Tensor:
    """``low_res`` ``[N, C, h, w]`` bilinearly resized (corners not aligned) to the size of ``x``."""
    if low_res is None:
        raise invalid("low_res", None, "a tensor [N, 3, h, w] in [-1, 1]; this model upsamples it")
    if low_res.shape[0] != x.shape[0]:
        raise invalid("low_res", tuple(low_res.shape), f"a batch of {x.shape[0]} images, as x has")
    return F.interpolate(low_res, x.shape[2:], mode="bilinear", align_corners=False)


def masked_image(
    x: torch.Tensor, inpaint_image: torch.Tensor | None, inpaint_mask: torch.Tensor | None
) -> list[torch.Tensor]:
    """``[image * mask, mask]`` with mask 1 where the image is kept; an argument that is None counts as zeros."""
    if inpaint_image is None:
        inpaint_image = torch.zeros_like(x)
    if inpaint_mask is None:
        inpaint_mask = torch.zeros_like(x[:, :1])
    if inpaint_image.shape[1:] != x.shape[1:] or inpaint_image.shape[0] not in (1, x.shape[0]):
        raise invalid("inpaint_image", tuple(inpaint_image.shape), f"the shape of x, {tuple(x.shape)}")
    if inpaint_mask.shape[1:] != x[:, :1].shape[1:] or inpaint_mask.shape[0] not in (1, x.shape[0]):
        raise invalid(
            "inpaint_mask",
            tuple(inpaint_mask.shape),
            f"shape {tuple(x[:, :1].shape)}, one channel as large as x",
        )
    # One picture or mask serves the whole batch, as multiplication's broadcasting has it in the official model.
    return [(inpaint_image * inpaint_mask).expand_as(x), inpaint_mask.expand_as(x[:, :1])]


class WiderInput(nn.Module):
    """A base class of UNets that read further pictures: their ``in_channels`` counts only the channels of the state ``x``."""

    pictures: ClassVar[int]
    masks: ClassVar[int]
    in_channels_position: ClassVar[int] = 0
    picture_names: ClassVar[tuple[str, ...]]
    """The arguments of ``forward`` that hold the further pictures, in order; each may be left out."""
    beside: ClassVar[Callable[..., list[torch.Tensor]]]
    """``beside(x, *pictures)``: the tensors to concatenate to ``x`` ``[N, C, H, W]`` along the channels, in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "in_channels" in kwargs:
            kwargs["in_channels"] = self._widened(kwargs["in_channels"])
        else:
            at = self.in_channels_position
            args = (*args[:at], self._widened(args[at]), *args[at + 1 :])
        super().__init__(*args, **kwargs)

    def _widened(self, channels: int) -> int:
        return self.pictures * channels + self.masks


class SuperResInput(WiderInput):
    """Reads the low-resolution picture, resized bilinearly, beside x."""

    pictures = 2
    masks = 0
    picture_names = ("low_res",)

    @staticmethod
    def beside(x: torch.Tensor, low_res: torch.Tensor | None = None) -> list[torch.Tensor]:
        return [resized_low_res(x, low_res)]

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, low_res: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """As the UNet's own, with ``low_res`` ``[N, 3, h, w]``."""
        return super().forward(torch.cat([x, *self.beside(x, low_res)], dim=1), timesteps, **kwargs)


class InpaintInput(WiderInput):
    """Reads the masked picture and the mask beside x."""

    pictures = 2
    masks = 1
    picture_names = ("inpaint_image", "inpaint_mask")

    @staticmethod
    def beside(
        x: torch.Tensor, inpaint_image: torch.Tensor | None = None, inpaint_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        return masked_image(x, inpaint_image, inpaint_mask)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        inpaint_image: torch.Tensor | None = None,
        inpaint_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As the UNet's own, with ``inpaint_image`` ``[N, 3, H, W]`` and ``inpaint_mask`` ``[N, 1, H, W]``, 1 = keep."""
        extra = self.beside(x, inpaint_image, inpaint_mask)
        return super().forward(torch.cat([x, *extra], dim=1), timesteps, **kwargs)


class SuperResInpaintInput(WiderInput):
    """Reads the masked picture, the mask and the resized low-resolution picture beside x."""

    pictures = 3
    masks = 1
    picture_names = ("inpaint_image", "inpaint_mask", "low_res")

    @staticmethod
    def beside(
        x: torch.Tensor,
        inpaint_image: torch.Tensor | None = None,
        inpaint_mask: torch.Tensor | None = None,
        low_res: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        return [*masked_image(x, inpaint_image, inpaint_mask), resized_low_res(x, low_res)]

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        inpaint_image: torch.Tensor | None = None,
        inpaint_mask: torch.Tensor | None = None,
        low_res: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As the UNet's own, with the inputs of both other kinds."""
        extra = self.beside(x, inpaint_image, inpaint_mask, low_res)
        return super().forward(torch.cat([x, *extra], dim=1), timesteps, **kwargs)
