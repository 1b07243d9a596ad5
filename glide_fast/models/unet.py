"""The diffusion UNet with text attention: ADM's blocks (Dhariwal & Nichol 2021) plus GLIDE's encoder keys and values.

Module and parameter names are those of the released checkpoints, so their state dicts load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from glide_fast.errors import invalid
from glide_fast.models.conditioning import InpaintInput, SuperResInpaintInput, SuperResInput
from glide_fast.models.layers import GroupNorm32, timestep_embedding, zero_module
from glide_fast.models.precision import convert_convolutions
from glide_fast.models.strided import StridedConv1d, StridedConv2d, StridedConv3d
from glide_fast.ops import text_attention

_CONVOLUTION: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_STRIDED: dict[int, Callable[..., nn.Module]] = {1: StridedConv1d, 2: StridedConv2d, 3: StridedConv3d}
_AVERAGE_POOL: dict[int, Callable[..., nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def conv_nd(dims: int, *args: object, **kwargs: object) -> nn.Module:
    """A 1, 2 or 3-dimensional convolution module."""
    if dims not in _CONVOLUTION:
        raise invalid("dims", dims, "1, 2 or 3")
    strided = "stride" in kwargs or len(args) > 3  # after channels, channels and kernel
    return (_STRIDED if strided else _CONVOLUTION)[dims](*args, **kwargs)


def avg_pool_nd(dims: int, *args: object, **kwargs: object) -> nn.Module:
    """A 1, 2 or 3-dimensional average pooling module."""
    if dims not in _AVERAGE_POOL:
        raise invalid("dims", dims, "1, 2 or 3")
    return _AVERAGE_POOL[dims](*args, **kwargs)


def _in_plane(dims: int) -> int | tuple[int, int, int]:
    """Factor 2 in the image plane: three-dimensional data keeps its first spatial axis."""
    return (1, 2, 2) if dims == 3 else 2


class TimestepBlock(nn.Module):
    """A layer whose second argument is the timestep embedding."""


class Upsample(nn.Module):
    """Nearest-neighbour enlargement by two, then a convolution if ``use_conv``."""

    def __init__(self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None) -> None:
        super().__init__()
        self.channels, self.use_conv, self.dims = channels, use_conv, dims
        self.out_channels = out_channels or channels
        self.factor = tuple(float(f) for f in (1, 2, 2)) if dims == 3 else 2.0
        if use_conv:
            self.conv = conv_nd(dims, channels, self.out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=self.factor, mode="nearest")  # type: ignore[arg-type]
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """A stride-2 convolution if ``use_conv``, else the mean of each 2x2 block."""

    def __init__(self, channels: int, use_conv: bool, dims: int = 2, out_channels: int | None = None) -> None:
        super().__init__()
        self.channels, self.use_conv, self.dims = channels, use_conv, dims
        self.out_channels = out_channels or channels
        if use_conv:
            self.op = conv_nd(dims, channels, self.out_channels, 3, stride=_in_plane(dims), padding=1)
        else:
            if self.channels != self.out_channels:
                raise invalid("out_channels", out_channels, f"{channels}: pooling keeps the channel count")
            self.op = avg_pool_nd(dims, kernel_size=_in_plane(dims), stride=_in_plane(dims))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class ResBlock(TimestepBlock):
    """Norm, SiLU, [resample,] convolution; FiLM or added embedding; norm, SiLU, dropout, convolution; plus the skip.

    Args:
        channels: input channels.
        emb_channels: width of the timestep embedding.
        dropout: probability, before the second convolution.
        out_channels: output channels (default: as the input). A change of width puts a convolution on the skip: 1x1, or 3x3
            with ``use_conv``.
        use_scale_shift_norm: FiLM after the second norm; otherwise the embedding is added before it.
        use_checkpoint: recompute the block's activations in the backward pass.
        up, down: resample by two, both the branch (after norm and SiLU, before its convolution) and the skip.
        norm_groups: groups of both norms.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        self.channels, self.emb_channels, self.dropout = channels, emb_channels, dropout
        self.out_channels = out_channels or channels
        self.use_conv, self.use_checkpoint, self.use_scale_shift_norm = (
            use_conv,
            use_checkpoint,
            use_scale_shift_norm,
        )

        # nn.Identity holds the places of the released model's fused activations: positions are parameter names.
        self.in_layers = nn.Sequential(
            GroupNorm32(norm_groups, channels, swish=1.0),
            nn.Identity(),
            conv_nd(dims, channels, self.out_channels, 3, padding=1),
        )
        self.updown = up or down
        self.h_upd: nn.Module = nn.Identity()
        self.x_upd: nn.Module = nn.Identity()
        if self.updown:
            resample = Upsample if up else Downsample
            self.h_upd, self.x_upd = resample(channels, False, dims), resample(channels, False, dims)
        film = 2 if use_scale_shift_norm else 1
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, film * self.out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm32(norm_groups, self.out_channels, swish=0.0 if use_scale_shift_norm else 1.0),
            nn.SiLU() if use_scale_shift_norm else nn.Identity(),
            nn.Dropout(p=dropout),
            zero_module(conv_nd(dims, self.out_channels, self.out_channels, 3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if self.out_channels != channels:
            kernel = {"kernel_size": 3, "padding": 1} if use_conv else {"kernel_size": 1}
            self.skip_connection = conv_nd(dims, channels, self.out_channels, **kernel)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """``x`` ``[N, channels, ...]`` and ``emb`` ``[N, emb_channels]`` give ``[N, out_channels, ...]``."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, emb, use_reentrant=False)
        return self._forward(x, emb)

    def _forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.h_upd(self.in_layers[0](x))
        x = self.x_upd(x)
        h = self.in_layers[2](h)
        norm, dropout, convolution = self.out_layers[0], self.out_layers[2], self.out_layers[3]
        emb_out = self.emb_layers(emb)
        if self.use_scale_shift_norm:
            scale, shift = emb_out.chunk(2, dim=1)
            h = norm(h, scale, shift, silu=True)
        else:
            h = norm(h + emb_out.to(h.dtype).view(*emb_out.shape, *([1] * (h.dim() - 2))))
        return self.skip_connection(x) + convolution(dropout(h))


class QKVAttention(nn.Module):
    """Attention over packed ``qkv`` and, before it, the text's packed ``encoder_kv``; holds no parameters."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: torch.Tensor, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
        return text_attention(qkv, self.n_heads, encoder_kv)


class AttentionBlock(nn.Module):
    """Every position attends to all positions and, with ``encoder_channels``, to the text.

    Args:
        channels: width; divided into ``num_heads`` heads, or into heads of ``num_head_channels``.
        encoder_channels: width of the text encoder's output, None for image-only attention.
        norm_groups: groups of the norm (which has no activation).
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int = -1,
        use_checkpoint: bool = False,
        encoder_channels: int | None = None,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        if num_head_channels != -1 and channels % num_head_channels:
            raise invalid(
                "num_head_channels", num_head_channels, f"a divisor of the block's {channels} channels"
            )
        self.channels = channels
        self.num_heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        self.use_checkpoint = use_checkpoint
        self.norm = GroupNorm32(norm_groups, channels, swish=0.0)
        self.qkv = nn.Conv1d(channels, channels * 3, 1)
        self.attention = QKVAttention(self.num_heads)
        if encoder_channels is not None:
            self.encoder_kv = nn.Conv1d(encoder_channels, channels * 2, 1)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor, encoder_out: torch.Tensor | None = None) -> torch.Tensor:
        """``x`` ``[N, C, ...]``, ``encoder_out`` ``[N, encoder_channels, S]``; the result has the shape of ``x``."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._forward, x, encoder_out, use_reentrant=False)
        return self._forward(x, encoder_out)

    def _forward(self, x: torch.Tensor, encoder_out: torch.Tensor | None) -> torch.Tensor:
        encoder_kv = None if encoder_out is None else self.encoder_kv(encoder_out)
        h = self.attention(self.qkv(self.norm(x).flatten(2)), encoder_kv)
        return x + self.proj_out(h).reshape(x.shape)


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """Runs its layers in order, handing each the embedding or the text it takes."""

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, emb: torch.Tensor, encoder_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        for layer in self:
            if isinstance(layer, TimestepBlock):
                x = layer(x, emb)
            elif isinstance(layer, AttentionBlock):
                x = layer(x, encoder_out)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """UNet with timestep (and optionally class) conditioning and attention at chosen levels.

    Args:
        in_channels, out_channels: of the picture; GLIDE's output is eps and the variance's v, six channels.
        model_channels: base width.
        num_res_blocks: residual blocks a level on the way down; one more on the way up.
        attention_resolutions: downsampling factors (1, 2, 4, ...) at which attention follows each block.
        dropout: probability inside the residual blocks.
        channel_mult: width of each level as a multiple of ``model_channels``.
        conv_resample: learned resampling where ``resblock_updown`` is off.
        dims: 1, 2 or 3 spatial dimensions.
        num_classes: classes for an embedded label ``y``, or None.
        use_checkpoint: trade memory for recomputation in training.
        use_fp16: the torso's activation type is fp16; weights change with :meth:`convert_to_fp16`.
        num_heads, num_head_channels, num_heads_upsample: heads by number or by size; -1 switches the size (or the separate
            number for the way up) off.
        use_scale_shift_norm: FiLM conditioning.
        resblock_updown: residual blocks do the resampling.
        encoder_channels: width of the text encoder's output for attention, or None.
        norm_groups: groups of every norm; 32 in all released models.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Collection[int],
        dropout: float = 0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        encoder_channels: int | None = None,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        if num_heads_upsample == -1:
            num_heads_upsample = num_heads
        self.in_channels, self.model_channels, self.out_channels = in_channels, model_channels, out_channels
        self.num_res_blocks, self.attention_resolutions = num_res_blocks, attention_resolutions
        self.dropout, self.channel_mult, self.conv_resample = dropout, channel_mult, conv_resample
        self.num_classes, self.use_checkpoint, self.use_fp16 = num_classes, use_checkpoint, use_fp16
        self.dtype = torch.float16 if use_fp16 else torch.float32
        self.num_heads, self.num_head_channels = num_heads, num_head_channels
        self.num_heads_upsample, self.norm_groups = num_heads_upsample, norm_groups

        time_embed_dim = model_channels * 4

        def residual(channels: int, out: int, **kwargs: bool) -> ResBlock:
            return ResBlock(
                channels,
                time_embed_dim,
                dropout,
                out_channels=out,
                dims=dims,
                use_checkpoint=use_checkpoint,
                use_scale_shift_norm=use_scale_shift_norm,
                norm_groups=norm_groups,
                **kwargs,
            )

        def attention(channels: int, heads: int) -> AttentionBlock:
            return AttentionBlock(
                channels, heads, num_head_channels, use_checkpoint, encoder_channels, norm_groups
            )

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, time_embed_dim), nn.SiLU(), nn.Linear(time_embed_dim, time_embed_dim)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, time_embed_dim)

        widths = [int(mult * model_channels) for mult in channel_mult]
        last_level = len(widths) - 1
        ch = input_ch = widths[0]
        skip_widths = [ch]
        blocks: list[nn.Module] = [TimestepEmbedSequential(conv_nd(dims, in_channels, ch, 3, padding=1))]
        factor = 1
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [residual(ch, width)]
                ch = width
                if factor in attention_resolutions:
                    layers.append(attention(ch, num_heads))
                blocks.append(TimestepEmbedSequential(*layers))
                skip_widths.append(ch)
            if level != last_level:
                down = residual(ch, ch, down=True) if resblock_updown else Downsample(ch, conv_resample, dims)
                blocks.append(TimestepEmbedSequential(down))
                skip_widths.append(ch)
                factor *= 2
        self.input_blocks = nn.ModuleList(blocks)

        self.middle_block = TimestepEmbedSequential(
            residual(ch, ch), attention(ch, num_heads), residual(ch, ch)
        )

        blocks = []
        for level in reversed(range(len(widths))):
            for i in range(num_res_blocks + 1):
                layers = [residual(ch + skip_widths.pop(), widths[level])]
                ch = widths[level]
                if factor in attention_resolutions:
                    layers.append(attention(ch, num_heads_upsample))
                if level and i == num_res_blocks:
                    layers.append(
                        residual(ch, ch, up=True) if resblock_updown else Upsample(ch, conv_resample, dims)
                    )
                    factor //= 2
                blocks.append(TimestepEmbedSequential(*layers))
        self.output_blocks = nn.ModuleList(blocks)

        self.out = nn.Sequential(
            GroupNorm32(norm_groups, ch, swish=1.0),
            nn.Identity(),
            zero_module(conv_nd(dims, input_ch, out_channels, 3, padding=1)),
        )

    def convert_to(self, dtype: torch.dtype) -> None:
        """Convert the torso's convolutions, and the type its activations take, to ``dtype`` (fp16, bf16 or fp32)."""
        for blocks in (self.input_blocks, self.middle_block, self.output_blocks):
            convert_convolutions(blocks, dtype)
        self.dtype = dtype

    def convert_to_fp16(self) -> None:
        """Convert the torso to fp16; norms, embeddings and the output layer stay fp32."""
        self.convert_to(torch.float16)

    def convert_to_fp32(self) -> None:
        """Convert the torso back to fp32."""
        self.convert_to(torch.float32)

    def torso(
        self, x: torch.Tensor, emb: torch.Tensor, encoder_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Everything between the embeddings and the output: ``x`` ``[N, in, ...]`` to ``[N, out, ...]`` in its type."""
        h = x.to(self.dtype)
        skips = []
        for block in self.input_blocks:
            h = block(h, emb, encoder_out)
            skips.append(h)
        h = self.middle_block(h, emb, encoder_out)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, encoder_out)
        return self.out(h.to(x.dtype))

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict from noised ``x`` ``[N, C, ...]`` at ``timesteps`` ``[N]``, with labels ``y`` ``[N]`` if class-conditional."""
        if (y is None) != (self.num_classes is None):
            raise invalid(
                "y", None if y is None else tuple(y.shape), "a label if and only if num_classes is set"
            )
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        return self.torso(x, emb)


class SuperResUNetModel(SuperResInput, UNetModel):  # type: ignore[misc]  # the inputs come before the rest
    """An upsampler without text; no released model is one."""


class InpaintUNetModel(InpaintInput, UNetModel):  # type: ignore[misc]  # the inputs come before the rest
    """An inpainting model without text; no released model is one."""


class SuperResInpaintUNetModel(SuperResInpaintInput, UNetModel):  # type: ignore[misc]  # the inputs come before the rest
    """An inpainting upsampler without text; no released model is one."""
