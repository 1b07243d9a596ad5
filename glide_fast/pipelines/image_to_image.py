"""Image to image: the base model starts from the noised picture (Meng et al. 2022); then the upsampler runs as usual."""

from __future__ import annotations

from glide_fast.pipelines.checks import require_strength
from glide_fast.pipelines.images import ImageInput, read_images, require_square, resize_images
from glide_fast.pipelines.sampling import Pictures
from glide_fast.pipelines.stage import Stage


def start_pictures(base: Stage, image: ImageInput, strength: float) -> Pictures:
    """The pictures to start from; arguments and errors of :meth:`glide_fast.pipelines.GlidePipeline.image_to_image`."""
    strength = require_strength("strength", strength)
    pictures = read_images(image)
    require_square(pictures, "image")
    return Pictures(start=resize_images(pictures, base.image_size), strength=strength)
