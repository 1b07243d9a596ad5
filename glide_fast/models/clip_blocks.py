"""The layers shared by both CLIP encoders, with the released checkpoints' parameter names (g, b, w, f_q, ...)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.layers import layer_norm
from glide_fast.models.own_values import own_generator, own_normal_parameter
from glide_fast.ops import masked_attention

Device = torch.device | str | None


def resolve_device(device: Device) -> torch.device:
    """``device``, or for None the GPU where there is one, as the official constructors assume."""
    return (
        torch.device(device)
        if device is not None
        else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )


def normal_parameter(shape: tuple[int, ...], std: float, device: Device) -> nn.Parameter:
    """A trainable fp32 tensor drawn from a normal distribution, with torch's generator."""
    return nn.Parameter(torch.empty(shape, dtype=torch.float32, device=device).normal_(std=std))


class LayerNorm(nn.Module):
    """:func:`glide_fast.models.layers.layer_norm` with this checkpoint's names."""

    def __init__(self, n_state: int, eps: float = 1e-5, device: Device = None) -> None:
        super().__init__()
        self.n_state, self.eps = n_state, eps
        self.g = nn.Parameter(torch.ones(n_state, device=device))
        self.b = nn.Parameter(torch.zeros(n_state, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.g, self.b, self.eps)


class Affine(nn.Module):
    """``x @ w.T + b`` in the type of ``x``; weights start normal with ``std`` (Glorot's by default), the bias at zero.

    Weights are drawn from ``generator``, on the CPU; None is a new one with torch's seed. Torch's global generator is not used,
    since the official code leaves the weights uninitialised and draws nothing from it.

    Weights of another type than ``x`` are converted at every call, as officially; :func:`convert_matrices` makes types agree.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        use_bias: bool = True,
        std: float | None = None,
        device: Device = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_in, self.n_out, self.use_bias = n_in, n_out, use_bias
        self.w = own_normal_parameter(
            (n_out, n_in),
            math.sqrt(2 / (n_in + n_out)) if std is None else std,
            own_generator("Affine") if generator is None else generator,
            None if device is None else torch.device(device),
        )
        if use_bias:
            self.b = nn.Parameter(torch.zeros(n_out, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w.to(x.dtype), self.b.to(x.dtype) if self.use_bias else None)


def convert_matrices(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Convert every parameter below ``encoder`` but those of layer norms to ``dtype``, in place: the type it computes in.

    Raises:
        InvalidInputError: for a type that is not a floating-point one.
    """
    if not dtype.is_floating_point:
        raise invalid("dtype", dtype, "a floating-point type")
    for layer in encoder.modules():
        if not isinstance(layer, LayerNorm):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.to(dtype)


@dataclass(frozen=True)
class AttentionInfo:
    """The attention of a stack of blocks: the number of heads, and whether a position sees only itself and earlier ones."""

    n_heads: int
    causal: bool


class AttentionResblock(nn.Module):
    """``x + f_c(attention(f_q, f_k, f_v of norm(x)))``; the keys have no bias.

    Args:
        n_state: width, a multiple of ``attn_fn.n_heads``.
        n_resblocks: residual branches in the whole encoder, two a block; deeper encoders start with weaker branches.
        attn_fn: heads and mask.
        generator: of the weights' initial values, as in :class:`Affine`.
    """

    def __init__(
        self,
        n_state: int,
        n_resblocks: int,
        attn_fn: AttentionInfo,
        device: Device = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_state % attn_fn.n_heads:
            raise invalid("attn_fn", attn_fn, f"a number of heads that divides n_state {n_state}")
        device = resolve_device(device)
        generator = own_generator("AttentionResblock") if generator is None else generator
        self.n_state, self.n_resblocks, self.attn_fn = n_state, n_resblocks, attn_fn
        inward, outward = 1 / math.sqrt(n_state), 1 / (math.sqrt(n_state) * n_resblocks)
        self.ln = LayerNorm(n_state, device=device)
        self.f_q = Affine(n_state, n_state, std=inward, device=device, generator=generator)
        self.f_k = Affine(n_state, n_state, use_bias=False, std=inward, device=device, generator=generator)
        self.f_v = Affine(n_state, n_state, std=inward, device=device, generator=generator)
        self.f_c = Affine(n_state, n_state, std=outward, device=device, generator=generator)

    def forward(self, m: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """``m`` ``[N, T, n_state]``; ``lengths`` ``[N]`` as in :func:`masked_attention`."""
        h = self.ln(m)
        h = masked_attention(
            self.f_q(h),
            self.f_k(h),
            self.f_v(h),
            self.attn_fn.n_heads,
            causal=self.attn_fn.causal,
            lengths=lengths,
        )
        return m + self.f_c(h)


class FullyConnectedResblock(nn.Module):
    """``x + f_2(gelu(f_1(norm(x))))``, four times as wide between, with the exact GELU."""

    def __init__(
        self,
        n_state: int,
        n_resblocks: int,
        device: Device = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        device = resolve_device(device)
        generator = own_generator("FullyConnectedResblock") if generator is None else generator
        self.n_state, self.n_resblocks = n_state, n_resblocks
        self.ln = LayerNorm(n_state, device=device)
        inward, outward = 1 / math.sqrt(2 * n_state), 1 / (math.sqrt(n_state) * n_resblocks)
        self.f_1 = Affine(n_state, 4 * n_state, std=inward, device=device, generator=generator)
        self.f_2 = Affine(4 * n_state, n_state, std=outward, device=device, generator=generator)

    def forward(self, m: torch.Tensor) -> torch.Tensor:
        return m + self.f_2(F.gelu(self.f_1(self.ln(m))))


class TransformerBlock(nn.Module):
    """Attention, then the fully connected part; arguments of :class:`AttentionResblock`."""

    def __init__(
        self,
        n_state: int,
        n_resblocks: int,
        attn_fn: AttentionInfo,
        device: Device = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = own_generator("TransformerBlock") if generator is None else generator
        self.f_attn = AttentionResblock(n_state, n_resblocks, attn_fn, device, generator)
        self.f_mlp = FullyConnectedResblock(n_state, n_resblocks, device, generator)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return self.f_mlp(self.f_attn(x, lengths))
