"""A model built of torch's layers, as in the released code: the baseline that glide_fast is measured against.

The plain models of :mod:`glide_fast.models` run glide_fast's ops, so they cannot be a baseline.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.models.layers import GroupNorm32, LayerNorm
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.models.text_transformer import QKVMultiheadAttention
from glide_fast.models.unet import QKVAttention
from glide_fast.ops.text_attention import packed_heads
from glide_fast.ops.text_attention.reference import reference
from glide_fast.runtime.layout import structure_of


class ReleasedNorm(GroupNorm32):
    """Group norm in fp32, between two conversions."""

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """The norm, without FiLM and activation."""
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        silu: bool = False,
    ) -> torch.Tensor:
        y = self.normalised(x)
        if scale is not None and shift is not None:
            per_channel = (*scale.shape, *([1] * (x.dim() - 2)))
            y = y * (1 + scale.to(y.dtype).view(per_channel)) + shift.to(y.dtype).view(per_channel)
        if silu or self.swish == 1.0:
            return F.silu(y)
        return y * torch.sigmoid(y * self.swish) if self.swish else y


class OwnTypeNorm(ReleasedNorm):
    """Group norm in the activations' type, whose kernels sum in fp32."""

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ReleasedLayerNorm(LayerNorm):
    """Layer norm in fp32, between two conversions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = F.layer_norm(
            x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return wide.to(x.dtype)


class ReleasedAttention(QKVAttention):
    """Two products and a softmax."""

    def forward(self, qkv: torch.Tensor, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
        return reference(qkv, self.n_heads, encoder_kv)


class SdpaAttention(QKVAttention):
    """``scaled_dot_product_attention``."""

    def forward(self, qkv: torch.Tensor, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
        return sdpa(qkv, self.n_heads, encoder_kv)


class ReleasedTextAttention(QKVMultiheadAttention):
    """Two products and a softmax, in the text transformer."""

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        return reference(qkv.transpose(1, 2), self.n_heads).transpose(1, 2)


def sdpa(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None) -> torch.Tensor:
    """Attention over packed ``qkv`` and ``encoder_kv`` (see :func:`glide_fast.ops.text_attention`) by torch's fused kernels."""
    return packed_heads.merge(F.scaled_dot_product_attention(*packed_heads.split(qkv, heads, encoder_kv)))


def stock(
    model: Text2ImUNet, *, dtype: torch.dtype, device: torch.device, tuned: bool = False
) -> Text2ImUNet:
    """``model`` rebuilt of torch's layers; it shares the weights of ``model`` where neither type nor device differ.

    Args:
        tuned: channels-last, group norm in the activations' type and fused attention; otherwise as released.
    """
    replacements: dict[type[nn.Module], type[nn.Module]] = {
        GroupNorm32: OwnTypeNorm if tuned else ReleasedNorm,
        LayerNorm: ReleasedLayerNorm,
        QKVAttention: SdpaAttention if tuned else ReleasedAttention,
        QKVMultiheadAttention: ReleasedTextAttention,
    }
    twin: Any = structure_of(model)
    for module in twin.modules():
        if type(module) in replacements:
            module.__class__ = replacements[type(module)]
    twin.to(device)
    if tuned:
        twin.to(memory_format=torch.channels_last)
    twin.convert_to(dtype)
    return twin.eval()  # type: ignore[no-any-return]
