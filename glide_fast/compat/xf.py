"""Stands for ``glide_text2im.xf``."""

from __future__ import annotations

import torch
from torch import nn

from glide_fast.models.layers import LayerNorm
from glide_fast.models.precision import convert_linears
from glide_fast.models.text_transformer import (
    MLP,
    MultiheadAttention,
    QKVMultiheadAttention,
    ResidualAttentionBlock,
    Transformer,
)

__all__ = [
    "MLP",
    "LayerNorm",
    "MultiheadAttention",
    "QKVMultiheadAttention",
    "ResidualAttentionBlock",
    "Transformer",
    "convert_module_to_f16",
]


def convert_module_to_f16(layer: nn.Module) -> None:
    """Convert one linear layer or 2-d convolution to fp16; for ``module.apply``. Not the function of that name in fp16_util."""
    if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        convert_linears(layer, torch.float16)
