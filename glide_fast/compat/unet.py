"""Stands for ``glide_text2im.unet``."""

from glide_fast.models.unet import (
    AttentionBlock,
    Downsample,
    InpaintUNetModel,
    QKVAttention,
    ResBlock,
    SuperResInpaintUNetModel,
    SuperResUNetModel,
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
