"""Converting a model's weights to the type, memory layout and packing that the fused operations read; decided only here."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from glide_fast.models.conditioning import WiderInput
from glide_fast.models.precision import CONVOLUTIONS
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.models.unet import Downsample, ResBlock, UNetModel, Upsample
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not
from glide_fast.ops.convolution.tiling import in_tiles
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.trim import TRIM_EVERY, trim

M = TypeVar("M", bound=nn.Module)


def structure_of(model: M) -> M:
    """A copy of the module tree over the same parameters and buffers: new Parameter objects, the same memory."""
    # A tokenizer never changes, and its tables take longer to copy than everything else.
    shared = [*model.parameters(), *model.buffers(), getattr(model, "tokenizer", None)]
    twin = copy.deepcopy(model, {id(item): item for item in shared})
    for module in twin.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach(), requires_grad=False)
    return twin


def free(parameter: torch.Tensor) -> None:
    """Free a parameter's memory; it has no elements afterwards."""
    parameter.data = parameter.new_empty(0)


def lay_out(
    model: UNetModel,
    source: UNetModel,
    *,
    dtype: torch.dtype,
    device: torch.device,
    batch: int,
    image_size: int,
    take: bool,
    features: Features = ALL,
) -> None:
    """Give ``model``, a :func:`structure_of` ``source``, weights of its own on ``device``.

    The torso's convolutions, the text transformer's matrices, its projection and the token embedding get the type ``dtype``; all
    else keeps its type, as in :mod:`glide_fast.models.precision`. On a GPU convolutions are channels-last. On a CPU those that
    are read whole are packed, as oneDNN or our own kernel reads them, for ``batch`` pictures of ``image_size`` pixels (unless
    ``features`` switches that off).

    With ``take`` the source's parameters are freed one by one, so that little is in memory twice.
    """
    converted = {id(module) for module in converted_modules(model)}
    sizes = dict(packed_convolutions(model, image_size, features)) if features.packed_weights else {}
    originals = dict(source.named_modules())
    freed = 0
    done: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for path, module in model.named_modules():
        new_type = dtype if id(module) in converted else None
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            original = originals[path]._parameters[name]
            assert original is not None
            if id(original) in done:
                module._parameters[name] = done[id(original)]
                continue
            value = parameter.detach().to(device=device, dtype=new_type or parameter.dtype)
            if name == "weight" and module in sizes and why_not(value.dtype, device) is None:
                size, stride = sizes[module]
                shape = (batch, module.weight.shape[1], size, size)
                tile = features.winograd and in_tiles(value, shape, stride)
                value = PackedWeight.pack(value, input_shape=shape, stride=stride, padding=None, tile=tile)
            else:
                if value.dim() == 4:
                    value = value.contiguous(memory_format=torch.channels_last)
                shared = value.data_ptr() == original.data_ptr()
                # A tensor made in inference mode has no version counter.
                if value.is_inference() or (shared and not take):
                    value = value.clone(memory_format=torch.preserve_format)
            done[id(original)] = (
                value.as_parameter()
                if isinstance(value, PackedWeight)
                else nn.Parameter(value, requires_grad=False)
            )
            module._parameters[name] = done[id(original)]
            del value, parameter
            if take:
                freed += original.nbytes
                free(original)
                if freed >= TRIM_EVERY:
                    trim()
                    freed = 0
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = (
                    buffer.detach().to(device) if take else buffer.detach().clone().to(device)
                )
    model.dtype = dtype


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm))


def converted_modules(model: UNetModel) -> Iterator[nn.Module]:
    """Modules whose own parameters have the torso's type: its convolutions, and the text transformer's matrices."""
    yield from torso_convolutions(model)
    if isinstance(model, Text2ImUNet) and model.xf_width:
        heads = [model.transformer_proj, model.token_embedding, *([model.unemb] if model.xf_ar else [])]
        for part in (model.transformer, *heads):
            yield from (module for module in part.modules() if not _is_norm(module))


def torso_convolutions(model: UNetModel) -> Iterator[nn.Module]:
    """The torso's convolutions."""
    for part in (model.input_blocks, model.middle_block, model.output_blocks):
        yield from (layer for layer in part.modules() if isinstance(layer, CONVOLUTIONS))


def reads_upsampled(block: ResBlock) -> bool:
    """Whether the block's first convolution is a 3x3 one of an upsampled picture."""
    weight: Any = block.in_layers[2].weight
    return block.updown and isinstance(block.h_upd, Upsample) and tuple(weight.shape[2:]) == (3, 3)


def packed_convolutions(
    model: Any, image_size: int, features: Features = ALL
) -> Iterator[tuple[nn.Module, tuple[int, int]]]:
    """Convolutions that the torso always reads whole on a CPU, each with the side of its input and its stride.

    Not among them: the text's projections (run once a prompt), the first convolution of models that read pictures beside x,
    those behind an upsampling, and the shortcuts that read the stream and a skip apart.
    """
    size = image_size

    def of(block: Any) -> Iterator[tuple[nn.Module, tuple[int, int]]]:
        nonlocal size
        reads_skip = any(block is other for other in model.output_blocks)
        for layer in block.children():
            if isinstance(layer, (Upsample, Downsample)):
                if isinstance(layer, Upsample):
                    size *= 2
                for convolution in layer.children():
                    if isinstance(convolution, CONVOLUTIONS):
                        yield convolution, (size, 2 if isinstance(layer, Downsample) else 1)
                if isinstance(layer, Downsample):
                    size //= 2
                continue
            if isinstance(layer, ResBlock):
                if layer.updown:
                    size = size * 2 if isinstance(layer.h_upd, Upsample) else size // 2
                if not (features.by_places and reads_upsampled(layer)):
                    yield layer.in_layers[2], (size, 1)
                yield layer.out_layers[3], (size, 1)
                if not isinstance(layer.skip_connection, nn.Identity) and not reads_skip:
                    yield layer.skip_connection, (size, 1)
                reads_skip = False
                continue
            for name, projection in layer.named_children():
                if name in ("qkv", "proj_out"):
                    yield projection, (size, 1)

    first, *rest = model.input_blocks
    if not isinstance(model, WiderInput):
        yield first[0], (size, 1)
    for block in (*rest, model.middle_block, *model.output_blocks):
        yield from of(block)
    yield model.out[2], (size, 1)
