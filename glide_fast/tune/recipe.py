"""A call in JSON: types, sizes and strides of its tensors and its options, so that another process can make one like it.

What is in the tensors is left out: a call made from a recipe has zeros. It is for compiling what the call launches, not for
timing it.
"""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops import schema
from glide_fast.ops.convolution.packed_weight import PackedWeight

Recipe = dict[str, Any]


def recipe_of(op: str, call: Any) -> Recipe:
    """The recipe of a call of an op (its ``arguments.Call``)."""
    return {
        "op": op,
        "arguments": {name: _noted(getattr(call, name)) for name in schema.arguments(type(call))},
    }


def arguments_from(recipe: Recipe, device: str, *, zeros: bool = True) -> dict[str, Any]:
    """Arguments like those that the recipe is of, on a device, with zeros in their tensors or whatever memory holds."""
    arguments = {name: _made(value, device, zeros) for name, value in recipe["arguments"].items()}
    if arguments.get("out") is not None:
        from glide_fast.ops.guided_step import Step

        arguments["out"] = Step(*arguments["out"])
    return arguments


def _noted(value: Any) -> Any:
    if isinstance(value, PackedWeight):
        value = value.dense()
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": [kind, list(value.shape), list(value.stride())]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, tuple | list):
        return {"items": [_noted(one) for one in value]}
    return value


def _made(value: Any, device: str, zeros: bool) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        kind, shape, stride = value["tensor"]
        made = torch.empty_strided(shape, stride, dtype=getattr(torch, kind), device=device)
        return made.zero_() if zeros else made
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    return tuple(_made(one, device, zeros) for one in value["items"])
