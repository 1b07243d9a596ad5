"""``accelerate(model)``: the same model, on fused operations."""

from __future__ import annotations

import copy
import functools
from typing import Any, cast

import torch
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.conditioning import SuperResInpaintInput, SuperResInput
from glide_fast.models.layers import GroupNorm32
from glide_fast.models.unet import UNetModel
from glide_fast.ops.packed_weight import PackedWeight
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.layout import lay_out, structure_of
from glide_fast.runtime.model import ENGINE_STATE, Accelerated
from glide_fast.runtime.placement import resolve_device, resolve_dtype
from glide_fast.runtime.precision import fastest_dtype
from glide_fast.runtime.recognise import as_ours


@torch.inference_mode(False)
def accelerate(
    model: nn.Module,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    batch: int | None = None,
    image_size: int | None = None,
    take: bool = False,
    features: Features = ALL,
) -> UNetModel:
    """A drop-in for ``model``: same call, same arguments, same state dict, for inference.

    Args:
        model: a UNet of glide_fast, or an instance of the official package's classes (recognised by its structure). It is
            left as it is; but see ``take``.
        dtype: of the torso's and the text transformer's weights and activations; None is fp16 on a GPU, bf16 on CPUs with
            AVX-512 BF16 or AMX, and fp32 on others. Norm statistics, softmax, sums and the embeddings are fp32 in any case.
        device: None is where the model is.
        batch, image_size: what weights are packed for on a CPU; others work as well, perhaps a little slower. None is GLIDE's: 2
            pictures (guidance) of 64 pixels, or 1 of 256 for upsamplers.
        take: take the weights out of ``model``, which is of no use afterwards, instead of copying them: saves its memory.
        features: what to leave out, for measurements.

    Returns:
        A model of a subclass of glide_fast's class, in evaluation mode. What it remembers of prompts and pictures is known by
        their tensors' identity and version, so a loop that passes the same tensors encodes them once.

    Raises:
        InvalidInputError: for a model that is not a GLIDE UNet, or one with layers that have no fused form.
    """
    if isinstance(model, Accelerated):
        raise invalid("model", "an accelerated model", "a plain one")
    parameter = next(model.parameters(), None)
    place = resolve_device(device if device is not None or parameter is None else parameter.device)
    kind = resolve_dtype(dtype, place) if dtype is not None else fastest_dtype(place)
    ours = as_ours(model)
    _check(ours)
    upsamples = isinstance(ours, (SuperResInput, SuperResInpaintInput))
    batch = batch or (1 if upsamples else 2)
    image_size = image_size or (256 if upsamples else 64)
    twin = structure_of(ours)
    source: Any = ours
    if ours is not model:  # the official one: its parameters under our modules
        _adopt(twin, model)
        source = model
    lay_out(
        twin,
        source,
        dtype=kind,
        device=place,
        batch=batch,
        image_size=image_size,
        take=take,
        features=features,
    )
    twin.__class__ = _accelerated_class(cast(Any, type(ours)))
    assert isinstance(twin, Accelerated)
    twin.start(defer=place.type == "cuda", batch=batch, image_size=image_size, features=features)
    return twin.eval()


@functools.cache
def _accelerated_class(kind: Any) -> type[UNetModel]:
    return type(f"Accelerated{kind.__name__}", (Accelerated, kind), {"__module__": __name__})


def _check(model: UNetModel) -> None:
    first: Any = next(model.input_blocks[0].children())
    dims = first.weight.dim() - 2
    if dims != 2:
        raise invalid("model", f"{dims} spatial dimensions", "two-dimensional pictures")
    for name, layer in model.named_modules():
        if isinstance(layer, GroupNorm32) and layer.swish not in (0.0, 1.0):
            raise invalid("model", f"{name} with swish={layer.swish}", "swish 0 or 1")


def _adopt(ours: UNetModel, theirs: nn.Module) -> None:
    """Put the parameters of ``theirs`` in the place of ours, by name."""
    owners = dict(ours.named_modules())
    for name, tensor in theirs.state_dict(keep_vars=True).items():
        path, _, leaf = name.rpartition(".")
        room = owners[path]
        if leaf in room._parameters:
            room._parameters[leaf] = nn.Parameter(tensor.detach(), requires_grad=False)
        else:
            room._buffers[leaf] = tensor.detach()


def plain(model: Accelerated) -> UNetModel:
    """See :meth:`glide_fast.runtime.model.Accelerated.plain`."""
    kind = next(base for base in type(model).__mro__ if not issubclass(base, Accelerated))
    dense = {
        id(p): nn.Parameter(
            p.dense()
            if isinstance(p, PackedWeight)
            else p.detach().clone(memory_format=torch.contiguous_format)
        )
        for p in model.parameters()
    }
    twin: Any = kind.__new__(kind)
    kept = {name: value for name, value in vars(model).items() if name not in ENGINE_STATE}
    twin.__dict__ = copy.deepcopy(kept, dense)
    return twin.eval()  # type: ignore[no-any-return]
