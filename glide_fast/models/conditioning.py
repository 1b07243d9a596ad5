"""Extra picture inputs of the upsampler and the inpainting models: how each is laid beside x on the channel axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
    """``[image * mask, mask]`` with mask 1 where the image is kept; what is missing counts as zeros."""
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
