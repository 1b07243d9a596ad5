"""Stands for ``glide_text2im.clip.encoders``.

Two differences: ``device`` defaults to the GPU only where there is one, and ``attn_fn`` is this package's AttentionInfo.
"""

from __future__ import annotations

from glide_fast.models.clip_blocks import (
    Affine,
    AttentionInfo,
    AttentionResblock,
    FullyConnectedResblock,
    LayerNorm,
    TransformerBlock,
)
from glide_fast.models.clip_image import (
    ImageEmbedding,
    ImageEncoder,
    ImageFeatureExtractor,
    image_channel_means,
    image_channel_stds,
)
from glide_fast.models.clip_text import TextEmbedding, TextEncoder, TextFeatureExtractor

__all__ = [
    "Affine",
    "AttentionInfo",
    "AttentionResblock",
    "FullyConnectedResblock",
    "ImageEmbedding",
    "ImageEncoder",
    "ImageFeatureExtractor",
    "LayerNorm",
    "TextEmbedding",
    "TextEncoder",
    "TextFeatureExtractor",
    "TransformerBlock",
    "image_channel_means",
    "image_channel_stds",
]
