"""The small layers shared by the UNet and the text transformer, with the released checkpoint's parameter names."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

from glide_fast.ops import group_norm_act

M = TypeVar("M", bound=nn.Module)


def timestep_embedding(timesteps: torch.Tensor, dim: int, max_period: float = 10000) -> torch.Tensor:
    """Sinusoidal embedding of (possibly fractional) timesteps (Vaswani et al. 2017, section 3.5; cosines first).

    Args:
        timesteps: ``[N]``.
        dim: width of the result; an odd width gets a zero column at the end.
        max_period: the longest wavelength is ``2 pi max_period``.

    Returns:
        ``[N, dim]`` fp32: cos, then sin, of ``timesteps * max_period ** (-i / half)``.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(embedding, (0, dim % 2))


class GroupNorm32(nn.GroupNorm):
    """Group norm with fp32 statistics and, with ``swish`` 1, the SiLU that follows it.

    ``swish`` other than 0 and 1 multiplies by ``sigmoid(swish * y)``, as the released layer does.
    """

    def __init__(self, num_groups: int, num_channels: int, swish: float, eps: float = 1e-5) -> None:
        super().__init__(num_groups=num_groups, num_channels=num_channels, eps=eps)
        self.swish = swish

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        silu: bool = False,
    ) -> torch.Tensor:
        """Normalise ``x`` ``[N, C, ...]``; FiLM's ``scale`` and ``shift`` ``[N, C]`` and ``silu`` come after the norm."""
        silu = silu or self.swish == 1.0
        y = group_norm_act(x, self.weight, self.bias, self.num_groups, self.eps, scale, shift, silu)
        return y if silu or not self.swish else y * torch.sigmoid(y * self.swish)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Layer norm over the last dimension (Ba et al. 2016): in fp32 (fp64 for fp64), rounded once, without a wide copy.

    Args:
        x: ``[..., C]``, fp16, bf16, fp32 or fp64.
        weight, bias: ``[C]``, of the type of x, or fp32 beside fp16 and bf16; other types are converted to that of x.
    """
    mixed = weight.dtype == bias.dtype == torch.float32 and x.dtype in (torch.float16, torch.bfloat16)
    if mixed and x.device.type != "cpu":
        # torch's kernel on a CPU takes this mix, that on a CUDA device does not, and rounding the parameters would cost accuracy.
        return layer_norm_by_group_norm(x, weight, bias, eps)
    if not mixed:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def layer_norm_by_group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """:func:`layer_norm` as the group norm of a single group at a single position, whose kernels take parameters of any type."""
    rows = x.reshape(-1, x.shape[-1], 1)
    return group_norm_act(rows, weight, bias, 1, eps).reshape(x.shape)


class LayerNorm(nn.LayerNorm):
    """:func:`layer_norm` over the last dimension."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class Linear(nn.Linear):
    """A linear layer that computes in the type of ``x`` where its weights are kept in a narrower one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype == x.dtype:
            return super().forward(x)
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class CompactEmbedding(nn.Module):
    """An embedding of a large vocabulary that stores only the rows in use.

    GPT-2's vocabulary has 50,257 entries; a small model's captions use a few hundred. Token ids go through ``index`` to
    a row of ``weight``; ids that were never seen in training share row 0, the unknown word.

    Args:
        vocabulary: number of token ids.
        rows: stored rows, the unknown row included.
        width: embedding width.
    """

    index: torch.Tensor

    def __init__(self, vocabulary: int, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight)
        self.register_buffer("index", torch.zeros(vocabulary, dtype=torch.int32))

    def assign(self, token_ids: list[int]) -> None:
        """Assign a separate row to each token id, in order, starting at row 1."""
        if len(token_ids) + 1 != self.weight.shape[0]:
            raise ValueError(f"{len(token_ids)} token ids do not fit {self.weight.shape[0] - 1} rows")
        self.index.zero_()
        self.index[torch.tensor(token_ids, dtype=torch.long)] = torch.arange(
            1, len(token_ids) + 1, dtype=torch.int32, device=self.index.device
        )

    def known(self) -> list[int]:
        """The token ids that have a separate row, in ascending order."""
        ids: list[int] = self.index.nonzero().flatten().tolist()
        return ids

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(self.index[tokens.long()], self.weight)


def zero_module(module: M) -> M:
    """Set every parameter of ``module`` to zero, so that a residual branch starts as the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module
