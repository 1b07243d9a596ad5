"""The text transformer that conditions the UNet: pre-norm blocks without a mask, head-major packed qkv."""

from __future__ import annotations

import torch
from torch import nn

from glide_fast.models.layers import LayerNorm, Linear
from glide_fast.ops import text_attention


class QKVMultiheadAttention(nn.Module):
    """Self-attention over ``[N, T, heads * 3 * head_size]``; holds no parameters."""

    def __init__(self, n_heads: int, n_ctx: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_ctx = n_ctx

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        return text_attention(qkv.transpose(1, 2), self.n_heads).transpose(1, 2)


class MultiheadAttention(nn.Module):
    """Projection, attention, projection."""

    def __init__(self, n_ctx: int, width: int, heads: int) -> None:
        super().__init__()
        self.n_ctx, self.width, self.heads = n_ctx, width, heads
        self.c_qkv = Linear(width, width * 3)
        self.c_proj = Linear(width, width)
        self.attention = QKVMultiheadAttention(heads, n_ctx)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.attention(self.c_qkv(x)))


class MLP(nn.Module):
    """Two linear layers, four times as wide between, with the exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.c_fc = Linear(width, width * 4)
        self.c_proj = Linear(width * 4, width)
        self.gelu = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, n_ctx: int, width: int, heads: int) -> None:
        super().__init__()
        self.attn = MultiheadAttention(n_ctx, width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """``layers`` residual attention blocks over ``[N, n_ctx, width]``."""

    def __init__(self, n_ctx: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.n_ctx, self.width, self.layers = n_ctx, width, layers
        self.resblocks = nn.ModuleList([ResidualAttentionBlock(n_ctx, width, heads) for _ in range(layers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x)
        return x
