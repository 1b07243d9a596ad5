"""The upsampler alone, on pictures of the size it enlarges."""

from __future__ import annotations

from glide_fast.pipelines.components import Components
from glide_fast.pipelines.images import ImageInput, quantise, read_images, require_size
from glide_fast.pipelines.sampling import Pictures

_ENLARGES = 4  # what both released and paper upsamplers do, where no base model says otherwise


def low_res_pictures(components: Components, image: ImageInput) -> Pictures:
    """The pictures to enlarge; arguments and errors of :meth:`glide_fast.pipelines.GlidePipeline.upsample`."""
    upsampler = components.require_upsampler()
    pictures = read_images(image)
    base = components.base
    size = base.image_size if base is not None else upsampler.image_size // _ENLARGES
    require_size(pictures, (size, size), "image", "what the upsampler reads")
    return Pictures(low_res=quantise(pictures))
