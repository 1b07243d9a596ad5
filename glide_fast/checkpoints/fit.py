"""Loading a state dict into a model: all of it, or nothing and an error that says what does not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glide_fast.checkpoints.files import nested_state_dicts
from glide_fast.checkpoints.infer import describe_role, infer_kind, infer_options
from glide_fast.errors import CheckpointError, invalid

_NAMED = 6  # how many keys of each kind an error names
_FIRST_CONV = "input_blocks.0.0.weight"
_WRAPPERS = (
    "module.",
    "_orig_mod.",
    "model.",
    "ema.",
    "ema_model.",
    "diffusion_model.",
    "model.diffusion_model.",
)
_KIND_WORDS = {"unet": "a UNet", "clip_text": "the CLIP text encoder", "clip_image": "the CLIP image encoder"}


@dataclasses.dataclass(frozen=True)
class Misfit:
    """How a state dict differs from what a model expects; `shapes` and `dtypes` are ready to print."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]
    dtypes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes or self.dtypes)


def load_into(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy `state` into `model`, strictly; where anything is wrong the model is unchanged.

    Values are cast to the dtype of the model's parameter (an fp16 checkpoint into an fp32 model, and the
    reverse) and copied into its memory, so addresses stay valid; a model built on the meta device gets fresh
    CPU memory instead. `source` names the checkpoint in errors.

    Raises CheckpointError naming the missing and unexpected keys and the shapes that differ, with the likely
    cause.
    """
    if not isinstance(model, nn.Module):
        raise invalid("model", type(model).__name__, "a torch.nn.Module")
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{source} holds a {type(state).__name__}, not a state dict")
    expected = require_fit(model, state, source=source)
    if any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in expected.values()):
        # A copy each: the checkpoint may be a mapped file, or in use elsewhere.
        own = {
            name: tensor.detach().to(expected[name].dtype, copy=True)
            if isinstance(tensor, Tensor)
            else tensor
            for name, tensor in state.items()
        }
        model.load_state_dict(own, strict=True, assign=True)
    else:
        model.load_state_dict(state, strict=True)


def require_fit(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """The model's own state dict, where `state` fits it; CheckpointError as :func:`load_into` otherwise."""
    expected: dict[str, Tensor] = model.state_dict(keep_vars=True)
    misfit = compare(expected, state)
    if misfit:
        raise CheckpointError(_message(type(model).__name__, expected, state, misfit, source))
    return expected


def compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Misfit:
    """How `state` differs from `expected` in names, shapes and kinds of dtype."""
    shapes: list[str] = []
    dtypes: list[str] = []
    for name in expected.keys() & state.keys():
        wanted, found = expected[name], state[name]
        if not isinstance(wanted, Tensor):
            continue
        if not isinstance(found, Tensor):
            dtypes.append(f"{name}: {type(found).__name__}, the model has a tensor")
        elif found.shape != wanted.shape:
            shapes.append(f"{name}: {tuple(found.shape)}, the model has {tuple(wanted.shape)}")
        elif _dtype_kind(found.dtype) != _dtype_kind(wanted.dtype):
            dtypes.append(f"{name}: {found.dtype}, the model has {wanted.dtype}")
    return Misfit(
        missing=tuple(name for name in expected if name not in state),
        unexpected=tuple(str(name) for name in state if name not in expected),
        shapes=tuple(sorted(shapes)),
        dtypes=tuple(sorted(dtypes)),
    )


def _dtype_kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "floating"
    if dtype.is_complex:
        return "complex"
    return "bool" if dtype == torch.bool else "whole"


def _message(
    model: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], misfit: Misfit, source: str
) -> str:
    lines = [f"{source} does not fit {model}, which is unchanged:"]
    for count_name, names in (
        ("missing key", misfit.missing),
        ("unexpected key", misfit.unexpected),
        ("differing shape", misfit.shapes),
        ("differing dtype", misfit.dtypes),
    ):
        if names:
            plural = "s" if len(names) > 1 else ""
            more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            separator = "; " if names in (misfit.shapes, misfit.dtypes) else ", "
            lines.append(f"  {len(names)} {count_name}{plural}: {separator.join(names[:_NAMED])}{more}")
    hint = _hint(expected, state, misfit)
    if hint:
        lines.append(f"  Likely cause: {hint}")
    return "\n".join(lines)


def _hint(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], misfit: Misfit) -> str | None:
    """The first of the common mistakes that explains the misfit."""
    nested = nested_state_dicts(state)
    if nested:
        return f"the state dict is nested under {_either(nested)}; pass state[{nested[0]!r}]"
    wrapper = _wrapper(expected, state)
    if wrapper is not None:
        return f"every key starts with {wrapper!r}, as a wrapped model saves it; remove that prefix"
    kinds = infer_kind(state), infer_kind(expected)
    if None not in kinds and kinds[0] != kinds[1]:
        found_kind, wanted_kind = (_KIND_WORDS[str(kind)] for kind in kinds)
        return f"this is the checkpoint of {found_kind}, the model is {wanted_kind}"
    if kinds != ("unet", "unet"):
        return None
    found, wanted = (_in_channels(tensors) for tensors in (state, expected))
    if found != wanted:
        return (
            f"this is a checkpoint of GLIDE's {describe_role(found)} ({found} input channels), the model is "
            f"GLIDE's {describe_role(wanted)} ({wanted}); see the options inpaint and super_res"
        )
    return _differing_options(expected, state)


def _either(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _wrapper(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    keys = [key for key in state if isinstance(key, str)]
    if not keys or len(keys) != len(state):
        return None
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in keys):
            bare = {key.removeprefix(prefix) for key in keys}
            if bare & expected.keys() and not expected.keys() & set(keys):
                return prefix
    return None


def _in_channels(tensors: Mapping[str, Tensor]) -> int:
    shape = tensors[_FIRST_CONV].shape
    return shape[1] if len(shape) > 1 else 0


def _differing_options(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """The options by which two UNets differ, where both have whole state dicts."""
    try:
        found, wanted = infer_options(state), infer_options(expected)
    except CheckpointError as error:
        return f"the checkpoint is incomplete ({re.sub('^.*shapes: ', '', str(error))})"
    differing = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    if not differing:
        return None
    pairs = ", ".join(
        f"{name} is {found.get(name)!r}, the model's {wanted.get(name)!r}" for name in differing
    )
    return f"the model was built with other options than the checkpoint's: {pairs}"
