"""``accelerate(model)``: the same model, on fused operations."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any, cast

import torch
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.conditioning import SuperResInpaintInput, SuperResInput
from glide_fast.models.layers import GroupNorm32
from glide_fast.models.unet import UNetModel
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.layout import lay_out, structure_of
from glide_fast.runtime.model import Accelerated, own_hooks
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
    features: Features | None = None,
) -> UNetModel:
    """A drop-in for ``model``: same call, same arguments, same state dict, for inference.

    An accelerated model that has the wanted device, type and sizes is returned itself; another one is laid out again from its
    present weights.

    Args:
        model: a UNet of glide_fast, or an instance of the official package's classes (recognised by its structure). It is not
            changed, unless ``take`` is True.
        dtype: the type of the torso's and the text transformer's weights and activations; None is fp16 on a GPU, bf16 on CPUs
            with AVX-512 BF16 or AMX, and fp32 on others. Norm statistics, softmax, sums and the embeddings are always fp32.
        device: the device to run on; None is that of the model.
        batch, image_size: the sizes that weights are packed for on a CPU; others work as well, perhaps a little slower. None is
            GLIDE's: 2 rows (guidance) of 64 pixels, or 1 of 256 for upsamplers.
        take: take the weights out of ``model``, which cannot be used afterwards, instead of copying them; this saves memory.
        features: switches parts of the runtime off, for measurements; None leaves all on.

    Returns:
        A model in evaluation mode. Its class is a subclass of glide_fast's class, and of the official class where ``model`` is an
        instance of that. It recognises prompts and pictures by their tensors, so a loop that passes the same tensors at each step
        encodes them once.

    Raises:
        InvalidInputError: for a model that is not a GLIDE UNet, or has layers without a fused form (replaced, wrapped or
            parametrised ones, hooks); the message names them.
    """
    if isinstance(model, Accelerated):
        return _again(model, dtype, device, batch, image_size, features)
    return _accelerate(model, official_class(model), dtype, device, batch, image_size, take, features or ALL)


def _accelerate(
    model: nn.Module,
    official: type[nn.Module] | None,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    batch: int | None,
    image_size: int | None,
    take: bool,
    features: Features,
) -> Accelerated:
    parameter = next(model.parameters(), None)
    target_device = resolve_device(device if device is not None or parameter is None else parameter.device)
    target_dtype = resolve_dtype(dtype, target_device) if dtype is not None else fastest_dtype(target_device)
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
        dtype=target_dtype,
        device=target_device,
        batch=batch,
        image_size=image_size,
        take=take,
        features=features,
    )
    twin.__class__ = _accelerated_class(cast(Any, type(ours)), cast(Any, official))
    assert isinstance(twin, Accelerated)
    twin.start(defer=target_device.type == "cuda", batch=batch, image_size=image_size, features=features)
    return twin.eval()


def _again(
    model: Accelerated,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    batch: int | None,
    image_size: int | None,
    features: Features | None,
) -> Accelerated:
    """``model`` itself if it has the wanted device, type, sizes and features, else a new one; None keeps those of the model."""
    current_device = next(model.parameters()).device
    target_device = current_device if device is None else resolve_device(device)
    target_dtype = model.dtype if dtype is None else resolve_dtype(dtype, target_device)
    current = (current_device, model.dtype, *model.accelerated_for, model.features)
    own_batch, own_size = model.accelerated_for
    wanted = (
        target_device,
        target_dtype,
        batch or own_batch,
        image_size or own_size,
        features or model.features,
    )
    if wanted == current:
        return model
    target_device, target_dtype, batch, image_size, features = wanted
    bare = model.lock.join(model.to_plain, hooks=False)
    twin = _accelerate(
        bare, official_class(model), target_dtype, target_device, batch, image_size, True, features
    )
    vars(twin).update(copy.deepcopy(own_hooks(model), {id(model): twin}))
    return twin


def restored(
    plain: UNetModel,
    official: type[nn.Module] | None,
    dtype: torch.dtype,
    batch: int,
    image_size: int,
    features: Features,
) -> Accelerated:
    """An accelerated model from its pickle, on the device of ``plain``, in ``dtype`` unless the device cannot compute in it."""
    target_device = next(plain.parameters()).device
    half_on_cpu = dtype == torch.float16 and target_device.type == "cpu"
    with torch.inference_mode(False):
        return _accelerate(
            plain, official, None if half_on_cpu else dtype, target_device, batch, image_size, True, features
        )


def official_class(model: nn.Module) -> type[nn.Module] | None:
    """The official package's class of ``model``, or of the model that was accelerated; None if it was of glide_fast's classes."""
    if isinstance(model, Accelerated):
        return model.official_class
    return None if isinstance(model, UNetModel) else type(model)


@functools.cache
def _accelerated_class(plain: Any, official: Any) -> type[UNetModel]:
    # The official class comes last and serves isinstance only: Python finds every method in our classes first.
    bases = (Accelerated, plain) if official is None else (Accelerated, plain, official)
    accelerated: type[UNetModel] = types.new_class(
        f"Accelerated{plain.__name__}",
        bases,
        exec_body=lambda body: body.update(
            __module__=__name__,
            plain_class=plain,
            official_class=official,
            restored=staticmethod(restored),
        ),
    )
    return accelerated


def _check(model: UNetModel) -> None:
    first: Any = next(model.input_blocks[0].children())
    dims = first.weight.dim() - 2
    if dims != 2:
        raise invalid("model", f"{dims} spatial dimensions", "two-dimensional pictures")
    for name, layer in model.named_modules():
        if isinstance(layer, GroupNorm32) and layer.swish not in (0.0, 1.0):
            raise invalid("model", f"{name} with swish={layer.swish}", "swish 0 or 1")


def _adopt(ours: UNetModel, theirs: nn.Module) -> None:
    """Replace the parameters of ``ours`` by those of ``theirs`` that have the same names."""
    owners = dict(ours.named_modules())
    for name, tensor in theirs.state_dict(keep_vars=True).items():
        path, _, leaf = name.rpartition(".")
        owner = owners[path]
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(tensor.detach(), requires_grad=False)
        else:
            owner._buffers[leaf] = tensor.detach()
