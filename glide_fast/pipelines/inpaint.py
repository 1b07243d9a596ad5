"""Inpainting and editing: part of a picture is kept, the rest is sampled for the prompt, in both stages."""

from __future__ import annotations

import torch

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.pipelines.images import ImageInput, read_images, read_masks, require_size, require_square
from glide_fast.pipelines.sampling import Pictures


def known_pictures(
    image: ImageInput, keep_mask: ImageInput | None, repaint_mask: ImageInput | None
) -> Pictures:
    """The pictures of which a part is kept; arguments and errors of :meth:`glide_fast.pipelines.GlidePipeline.inpaint`."""
    pictures = read_images(image)
    require_square(pictures, "image")
    return Pictures(known=pictures, known_mask=_keep(pictures, keep_mask, repaint_mask))


def _keep(
    pictures: torch.Tensor, keep_mask: ImageInput | None, repaint_mask: ImageInput | None
) -> torch.Tensor:
    """One mask for each picture, 1 where it is kept, from the one of the two masks that is not None."""
    if (keep_mask is None) == (repaint_mask is None):
        received = "neither" if keep_mask is None else "both"
        raise InvalidInputError(
            f"keep_mask, repaint_mask: got {received}; accepted: one of them, keep_mask with 1 where the picture stays as "
            "it is, or repaint_mask with 1 where it is painted anew"
        )
    argument, value = ("keep_mask", keep_mask) if repaint_mask is None else ("repaint_mask", repaint_mask)
    masks = read_masks(value, argument)
    require_size(masks, (pictures.shape[2], pictures.shape[3]), argument, "the size of the image")
    if len(masks) not in (1, len(pictures)):
        raise invalid(argument, f"{len(masks)} masks", f"1, or one for each of the {len(pictures)} pictures")
    masks = masks.expand(len(pictures), -1, -1, -1)
    return masks if repaint_mask is None else 1 - masks
