"""The UNet's torso as a list of fused operations over the parameters of a :class:`~glide_fast.models.unet.UNetModel`.

Everything is channels-last. A skip connection is read beside the stream, never concatenated to it; resampling happens where a
norm writes its result; a residual is added by the convolution that follows it (oneDNN's epilogue) or by the norm that reads it
(``defer``, for GPUs, where cuDNN would launch a kernel for each sum). Where a GPU multiplies matrices faster than it convolves,
the norm writes 3x3 windows and the convolution is their product with the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.layers import GroupNorm32
from glide_fast.models.precision import CONVOLUTIONS
from glide_fast.models.unet import AttentionBlock, Downsample, ResBlock, UNetModel, Upsample
from glide_fast.ops import arena, group_norm_act, output_convolution, text_attention, window_convolution
from glide_fast.ops.convolution import convolution, ways
from glide_fast.ops.resample import resample
from glide_fast.ops.upsampled_convolution import upsampled_convolution
from glide_fast.ops.upsampled_convolution.places import PLACES, place_weights
from glide_fast.runtime.derived import Derived
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.fp8 import Fp8Convolution, suits
from glide_fast.runtime.layout import reads_upsampled
from glide_fast.runtime.side_stream import SideStream
from glide_fast.runtime.stream import Stream
from glide_fast.runtime.watched import watched


@dataclass
class Conditioning:
    """What the torso reads besides the picture; computed before the loop, or once for a direct call.

    Attributes:
        films: for each residual block, ``[N, 2 C]`` (scale, then shift) or, without FiLM, ``[N, C]``.
        text: for each attention block, its text keys and values ``[N, 2 C, S]``, or None without text.
        share: what the pictures beside x and the bias add to the first convolution, ``[N, C, H, W]``, or None.
        beside: the pictures themselves, ``[N, P, H, W]``, where they are read with x instead.
    """

    films: Sequence[torch.Tensor]
    text: Sequence[torch.Tensor | None]
    share: torch.Tensor | None = None
    beside: torch.Tensor | None = None


class Deep:
    """The result of the levels below the first at the last full step (Ma et al. 2023, DeepCache).

    Args:
        keep: input blocks, and as many output blocks, that every step computes.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.feature: torch.Tensor | None = None

    def store(self, feature: torch.Tensor) -> None:
        """Copy ``[N, C, H, W]`` to a buffer, whose address stays the same unless a larger batch comes."""
        if self.feature is None or len(self.feature) < len(feature):
            with arena.outside():
                self.feature = torch.empty_like(feature)
        self.feature[: len(feature)].copy_(feature)


BESIDE = 132 * 128 * 128
"""The most elements of a shortcut that is computed beside the main branch: a tile of a matrix product for each multiprocessor of
an H100. Larger ones leave no multiprocessor idle, so nothing is won by running two kernels at once."""

Layer = Callable[[Stream, "torch.Tensor | None", Conditioning], Stream]


def normalise(
    norm: GroupNorm32,
    stream: Stream,
    skip: torch.Tensor | None = None,
    film: torch.Tensor | None = None,
    *,
    keep: bool = True,
    silu: bool = False,
    resampled: str | None = None,
    out_dtype: torch.dtype | None = None,
    windows: bool = False,
) -> torch.Tensor:
    """Norm, FiLM and SiLU of ``stream`` and ``skip`` joined by channels; with ``keep`` the stream's sum is written as well."""
    scale, shift = (None, None) if film is None else film.chunk(2, dim=1)
    keep = keep and stream.owes
    result: Any = group_norm_act(  # type: ignore[call-overload,misc]  # a tensor, or two with keep_sum
        stream.value,
        norm.weight,
        norm.bias,
        norm.num_groups,
        norm.eps,
        scale,
        shift,
        silu or norm.swish == 1.0,
        x2=skip,
        residual=stream.residual,
        x_bias=stream.bias,
        keep_sum=keep,
        resample=resampled,
        out_dtype=out_dtype,
        windows=windows,
    )
    if not keep:
        return result  # type: ignore[no-any-return]
    y, total = result
    stream.settle(total)
    return y  # type: ignore[no-any-return]


def matrix(weight: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution's weight as ``[out, in]``."""
    return weight.flatten(1)


def _plus(value: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    return value if residual is None else value + residual


class Convolver:
    """Runs convolutions: adds bias and residual in the same operation, or leaves both to the next norm.

    Args:
        defer: leave biases and residuals of 3x3 convolutions to the next norm, and run projections as matrix products.
        features: what to leave out.
    """

    def __init__(self, defer: bool, features: Features = ALL) -> None:
        self.defer, self.features = defer, features
        self.side = SideStream()
        self.parts: list[Derived] = []
        """Everything that is computed from weights."""
        self.in_fp8: dict[int, Fp8Convolution] = {}
        """Those that a calibration has seen, by the ids of their modules."""
        self.observes = False
        """Whether a calibration is under way."""

    def derive(
        self,
        source: Callable[[], torch.Tensor],
        part: Callable[[torch.Tensor], torch.Tensor],
        *,
        packed: bool,
    ) -> Derived:
        """A part of a weight, computed when it is needed; see :class:`Derived`."""
        self.parts.append(Derived(source, part, packed))
        return self.parts[-1]

    @property
    def by_places(self) -> bool:
        """Whether a convolution behind an upsampling reads the small picture instead; see ``upsampled_convolution``."""
        # On a GPU nobody has measured yet whether half the products outweigh one more pass over the result.
        return not self.defer and self.features.by_places

    @property
    def leaves_sums(self) -> bool:
        """Whether 3x3 convolutions leave biases and residuals to the next norm."""
        return self.defer and self.features.fused_sums

    @property
    def packs(self) -> bool:
        """Whether parts of weights are kept in the layout that oneDNN reads."""
        return not self.defer and self.features.packed_weights

    def reads_windows(self, module: Any, x: torch.Tensor, resampled: str | None = None) -> bool:
        """Whether a 3x3 convolution behind the norm of ``x`` is the fastest as a product of windows, which the norm then writes.

        ``resampled`` says how the norm resizes ``x``.
        """
        weight = module.weight
        if not (self.defer and self.features.windows) or weight.dtype not in (torch.float16, torch.bfloat16):
            return False
        samples, _, height, width = x.shape
        if resampled is not None:
            height, width = (side * 2 if resampled == "nearest_x2" else side // 2 for side in (height, width))
        outputs, inputs, *kernel = weight.shape
        if kernel != [3, 3] or self._quantised(module, height, width) is not None:
            return False
        return ways.fastest(samples, height * width, inputs, outputs) == ways.WINDOWS

    def __call__(
        self, module: Any, x: torch.Tensor, residual: torch.Tensor | None = None, stride: int = 1
    ) -> Stream:
        """A 3x3 convolution of ``x``, which may be windows."""
        if self.observes and stride == 1:
            self._observe(module, x)
        if x.dim() == 4 and (quantised := self._quantised(module, *x.shape[2:])) is not None:
            return self._owing(quantised(x), module.bias, residual)
        return self.convolve(module.weight, module.bias, x, residual, stride)

    def convolve(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        stride: int = 1,
    ) -> Stream:
        """As :meth:`__call__`, with weight and bias in place of a module."""
        if x.dim() == 5:  # windows
            # The next norm adds both at no cost where it reads; the product's epilogue could, but a residual that is read again
            # would have to be copied first.
            return self._owing(window_convolution(x, weight), bias, residual)
        if not self.features.fused_sums:
            return Stream(_plus(convolution(x, weight, bias, stride=stride), residual))
        if self.leaves_sums:
            return Stream(convolution(x, weight, stride=stride), bias, residual)
        return Stream(convolution(x, weight, bias, residual=residual, stride=stride))

    def _owing(self, y: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor | None) -> Stream:
        """``y`` with bias and residual left to the next norm, or added in passes of their own."""
        if self.features.fused_sums:
            return Stream(y, bias, residual)
        return Stream(_plus(y if bias is None else y + bias[:, None, None], residual))

    def _quantised(self, module: Any, height: int, width: int) -> Fp8Convolution | None:
        """The convolution in fp8 that runs for pictures of this size; None where there is none."""
        found = self.in_fp8.get(id(module))
        if found is None or found.largest is None or self.observes:
            return None
        return found if suits(module.weight, height, width) else None

    def _observe(self, module: Any, x: torch.Tensor) -> None:
        """Let the convolution in fp8 of this module see what it is to read: a picture, or its windows."""
        height, width = x.shape[1:3] if x.dim() == 5 else x.shape[2:]
        if id(module) not in self.in_fp8:
            if not suits(module.weight, height, width):
                return
            self.in_fp8[id(module)] = Fp8Convolution(module, self.derive)
        self.in_fp8[id(module)].observe(x)

    def project(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        x: torch.Tensor,
        onto: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A 1x1 convolution of ``x`` ``[N, C, H, W]``, added to ``onto``, which it may overwrite."""
        fused = self.features.fused_sums
        if not self.defer:
            return _plus(
                convolution(x, weight, bias, residual=onto if fused else None), None if fused else onto
            )
        rows = x.permute(0, 2, 3, 1)
        if onto is None or not fused:
            return _plus(F.linear(rows, matrix(weight), bias).permute(0, 3, 1, 2), onto)
        flat = onto.permute(0, 2, 3, 1).flatten(0, 2)
        flat.addmm_(rows.flatten(0, 2), matrix(weight).t())
        return onto


class Residual:
    """A residual block."""

    def __init__(self, block: ResBlock, index: int, convolve: Convolver) -> None:
        self.block, self.index, self.convolve = block, index, convolve
        self.resampling: str | None = None
        if block.updown:
            self.resampling = "nearest_x2" if isinstance(block.h_upd, Upsample) else "mean_2x2"
        self._halves: dict[int, tuple[Derived, Derived]] = {}
        self._product = (
            isinstance(block.skip_connection, CONVOLUTIONS) and block.skip_connection.weight.shape[-1] == 1
        )
        self._places: tuple[Derived, Derived] | None = None
        if convolve.by_places and reads_upsampled(block):
            inner: Any = block.in_layers[2]
            self._places = (
                convolve.derive(lambda: inner.weight, place_weights, packed=convolve.packs),
                convolve.derive(lambda: inner.bias, lambda bias: bias.repeat(PLACES), packed=False),
            )
        if isinstance(block.skip_connection, CONVOLUTIONS):
            watched(block.skip_connection.weight)  # parts of it are made at the first call

    def __call__(self, stream: Stream, skip: torch.Tensor | None, conditioning: Conditioning) -> Stream:
        block: Any = self.block
        film = conditioning.films[self.index]
        # The norm writes its result resampled, unless the convolution wants the small picture.
        resampled = self.resampling if self._places is None else None
        windows = self.convolve.reads_windows(block.in_layers[2], stream.value, resampled)
        h = normalise(block.in_layers[0], stream, skip, silu=True, resampled=resampled, windows=windows)
        x = stream.value
        started = None
        if self._runs_beside(x):
            started = self.convolve.side.start(lambda: self.shortcut(x, skip), x.device)
        try:
            if self._places is None:
                inner = self.convolve(block.in_layers[2], h)
            else:
                weights, biases = (part.get(h.shape) for part in self._places)
                inner = Stream(upsampled_convolution(h, weights, biases))
            del h  # a block of the upsampler holds 25 MB at a time for each of its tensors
            norm = block.out_layers[0]
            windows = self.convolve.reads_windows(block.out_layers[3], inner.value)
            if block.use_scale_shift_norm:
                h = normalise(norm, inner, film=film, keep=False, silu=True, windows=windows)
            else:
                shifted = film.to(inner.value.dtype)[:, :, None, None]
                if inner.bias is not None:
                    shifted = shifted + inner.bias[:, None, None]
                h = normalise(norm, Stream(inner.value + shifted), silu=True, windows=windows)
            del inner
            # Where it runs beside, the convolution does not read it: the next norm does.
            shortcut = self.shortcut(x, skip) if started is None else started.result
            return self.convolve(block.out_layers[3], h, shortcut)
        finally:
            if started is not None:
                started.join()

    def _runs_beside(self, x: torch.Tensor) -> bool:
        """Whether the block's shortcut is computed beside its main branch."""
        if not (self._product and self.convolve.leaves_sums and self.convolve.features.side_stream):
            return False
        return len(x) * self.block.out_channels * x.shape[2] * x.shape[3] <= BESIDE

    def shortcut(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        """The block's shortcut for ``x`` and ``skip`` joined by channels: unchanged, resampled, or through a convolution."""
        module: Any = self.block.skip_connection
        if isinstance(module, nn.Identity):
            if skip is not None:
                return torch.cat([x, skip], dim=1)  # no known configuration: a block after a skip is narrower
            return x if self.resampling is None else resample(x, self.resampling)
        if module.weight.shape[-1] != 1:
            whole = x if skip is None else torch.cat([x, skip], dim=1)
            return convolution(whole, module.weight, module.bias)
        if skip is None:
            return self.convolve.project(module.weight, module.bias, x)
        first, second = self.halves(x.shape[1])
        onto = self.convolve.project(first.get(x.shape), module.bias, x)
        return self.convolve.project(second.get(skip.shape), None, skip, onto)

    def halves(self, channels: int) -> tuple[Derived, Derived]:
        """The shortcut's weight for the stream's ``channels`` and for the skip's."""
        if channels not in self._halves:
            module: Any = self.block.skip_connection
            derive, packed = self.convolve.derive, self.convolve.packs
            self._halves[channels] = (
                derive(lambda: module.weight, lambda w: w[:, :channels], packed=packed),
                derive(lambda: module.weight, lambda w: w[:, channels:], packed=packed),
            )
        return self._halves[channels]


class Attention:
    """An attention block, over the image's tokens and the text's."""

    def __init__(self, block: AttentionBlock, index: int, convolve: Convolver) -> None:
        self.block, self.index, self.convolve = block, index, convolve

    def __call__(self, stream: Stream, skip: torch.Tensor | None, conditioning: Conditioning) -> Stream:
        block: Any = self.block
        h = normalise(block.norm, stream)
        x = stream.value
        height, width = x.shape[2:]
        qkv = self.convolve.project(block.qkv.weight, block.qkv.bias, h).flatten(2)
        h = text_attention(qkv, block.num_heads, conditioning.text[self.index])
        # Kernels leave the layout as it is; where none takes the heads' size, the reference does not.
        h = h.unflatten(2, (height, width)).contiguous(memory_format=torch.channels_last)
        out = block.proj_out
        if self.convolve.leaves_sums:
            return Stream(self.convolve.project(out.weight, out.bias, h), residual=x)
        return Stream(self.convolve.project(out.weight, out.bias, h, x))


class Resampling:
    """The up- and downsampling layers of models without ``resblock_updown``."""

    def __init__(self, module: Upsample | Downsample, convolve: Convolver) -> None:
        self.module, self.convolve = module, convolve

    def __call__(self, stream: Stream, skip: torch.Tensor | None, conditioning: Conditioning) -> Stream:
        module: Any = self.module
        if isinstance(module, Downsample) and module.use_conv:
            return self.convolve(module.op, settled(stream), stride=2)
        mode = "nearest_x2" if isinstance(module, Upsample) else "mean_2x2"
        h = resample(stream.value, mode, bias=stream.bias, residual=stream.residual)
        return self.convolve(module.conv, h) if module.use_conv else Stream(h)


def settled(stream: Stream) -> torch.Tensor:
    """The stream's sum."""
    if stream.owes:
        total = stream.value
        if stream.bias is not None:
            total = total + stream.bias[:, None, None]
        stream.settle(total if stream.residual is None else total + stream.residual)
    return stream.value


class Torso:
    """All of the network between the embeddings and the output.

    Args:
        model: two-dimensional, its weights laid out by :mod:`glide_fast.runtime.layout`.
        defer, features: see :class:`Convolver`.

    Raises:
        InvalidInputError: for a model with a layer that has no fused form.
    """

    def __init__(self, model: UNetModel, defer: bool, features: Features = ALL) -> None:
        self.model, self.convolve = model, Convolver(defer, features)
        self.residuals: list[ResBlock] = []
        self.attentions: list[AttentionBlock] = []
        first, *rest = model.input_blocks
        self.first: Any = next(first.children())
        for parameter in self.first.parameters():  # the pictures' share, and x's part, are made of it
            watched(parameter)
        self._shares: dict[int, Derived] = {}
        self.down = [self._layers(block) for block in rest]
        self.middle = self._layers(model.middle_block)
        self.up = [self._layers(block) for block in model.output_blocks]

    def _layers(self, block: nn.Module) -> list[Layer]:
        layers: list[Layer] = []
        for module in block.children():
            if isinstance(module, ResBlock):
                layers.append(Residual(module, len(self.residuals), self.convolve))
                self.residuals.append(module)
            elif isinstance(module, AttentionBlock):
                layers.append(Attention(module, len(self.attentions), self.convolve))
                self.attentions.append(module)
            elif isinstance(module, (Upsample, Downsample)):
                layers.append(Resampling(module, self.convolve))
            else:
                raise invalid(
                    "model", type(module).__name__, "residual, attention and resampling layers only"
                )
        return layers

    def look(self) -> None:
        """Forget what was computed from weights that have changed without their version counter; reads those weights once."""
        seen: dict[int, int] = {}
        for part in self.convolve.parts:
            part.look(seen)

    def forget(self) -> None:
        """Forget everything that was computed from weights."""
        for part in self.convolve.parts:
            part.forget()

    def own_weight(self, x: torch.Tensor) -> torch.Tensor:
        """The first convolution's weight for the channels of ``x`` alone."""
        weight, channels = self.first.weight, x.shape[1]
        if weight.shape[1] == channels:
            return weight
        if channels not in self._shares:
            self._shares[channels] = self.convolve.derive(
                lambda: self.first.weight, lambda w: w[:, :channels], packed=self.convolve.packs
            )
        return self._shares[channels].get(x.shape)

    def share(self, pictures: torch.Tensor) -> torch.Tensor:
        """What ``pictures`` ``[N, P, H, W]``, beside x and behind it, and the bias add to the first convolution's result."""
        dense = self.first.weight[:, -pictures.shape[1] :]
        pictures = pictures.to(dense.dtype, memory_format=torch.channels_last)
        return F.conv2d(pictures, dense, self.first.bias, padding=1).contiguous(
            memory_format=torch.channels_last
        )

    def __call__(
        self, x: torch.Tensor, conditioning: Conditioning, deep: Deep | None = None, shallow: bool = False
    ) -> torch.Tensor:
        """``x`` ``[N, C, H, W]``, channels-last and of the torso's type, to ``[N, out, H, W]`` in the output layer's.

        A full step leaves its deep features in ``deep``; a ``shallow`` one takes them from there.
        """
        if conditioning.beside is not None:
            x = torch.cat([x, conditioning.beside], dim=1)
        bias = self.first.bias if conditioning.share is None else None
        stream = self.convolve.convolve(self.own_weight(x), bias, x, conditioning.share)
        # A stream is settled by the norm that reads it next, before its block's turn as a skip comes.
        skips = [stream]
        keep = len(self.up) if deep is None else deep.keep
        for block in self.down[: keep - 1] if shallow else self.down:
            for layer in block:
                stream = layer(stream, None, conditioning)
            skips.append(stream)
        if shallow:
            if deep is None or deep.feature is None:
                raise RuntimeError("a shallow step needs a full one before it")
            stream = Stream(deep.feature[: len(x)])
        else:
            for layer in self.middle:
                stream = layer(stream, None, conditioning)
        for block in self.up[-keep:] if shallow else self.up:
            if deep is not None and not shallow and len(skips) == keep:
                deep.store(settled(stream))
            skip: torch.Tensor | None = settled(skips.pop())
            for layer in block:
                stream = layer(stream, skip, conditioning)
                skip = None
        norm: Any = self.model.out[0]
        last: Any = self.model.out[2]
        wide, narrow = last.weight.dtype, stream.value.dtype
        if self.convolve.defer and self.convolve.features.output_convolution and wide == torch.float32:
            # fp16 has the digits of TF32, in which torch lets cuDNN convolve fp32; bf16 has fewer.
            out_dtype = None if narrow == torch.float16 else wide
            h = normalise(norm, stream, keep=False, out_dtype=out_dtype)
            return output_convolution(h, last.weight, last.bias)
        h = normalise(norm, stream, keep=False, out_dtype=None if wide == narrow else wide)
        return convolution(h, last.weight, last.bias)
