"""group_norm_act where torch compiles or records: on a device one opaque operator, whose backend is chosen when it runs.

Gradients of the operator are those of the reference, computed again.
"""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops import backends, recompute, schema
from glide_fast.ops.group_norm_act.arguments import TENSORS, Call, Result
from glide_fast.ops.group_norm_act.reference import normalise, reference_sum, run_unchecked
from glide_fast.ops.layout import laid_out_as

_OPTIONS = tuple(name for name in schema.options(Call) if name != "keep_sum")
_ARGUMENTS = tuple(name for name in schema.arguments(Call) if name != "keep_sum")
_SCHEMA = schema.of_operator(Call, without=("keep_sum",))
"""Whether the sum is kept is said by which of the two operators is called."""


def compiled(call: Call) -> Result:
    """The call under ``torch.compile``: on a CPU the reference, which the compiler fuses; on a device one operator."""
    return run_operator(call) if call.x.is_cuda else run_unchecked(call)


def run_operator(call: Call) -> Result:
    """The call as one operator of torch."""
    given = [getattr(call, name) for name in _ARGUMENTS]
    if call.keep_sum and call.adds:
        return Result(*add_norm(*given))
    return Result(norm(*given), call.x if call.keep_sum else None)


def _call(given: tuple[Any, ...], keep_sum: bool = False) -> Call:
    return Call(**dict(zip(_ARGUMENTS, given, strict=True)), keep_sum=keep_sum)


@torch.library.custom_op("glide_fast::group_norm_act", mutates_args=(), schema=f"({_SCHEMA}) -> Tensor")
def norm(*given: Any) -> torch.Tensor:
    """The op without its sum."""
    call = _call(given)
    result: Result = backends.named("group_norm_act").run_chosen(call)
    return laid_out_as(call.empty_y(), result.y)


@norm.register_fake
def _norm_fake(*given: Any) -> torch.Tensor:
    return _call(given).empty_y()


@torch.library.custom_op(
    "glide_fast::add_group_norm_act", mutates_args=(), schema=f"({_SCHEMA}) -> (Tensor, Tensor)"
)
def add_norm(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The op with its sum. An operator may not return its own input: where nothing is added, the sum is a copy."""
    call = _call(given, keep_sum=True)
    y, total = backends.named("group_norm_act").run_chosen(call)
    fresh = call.empty_sum()
    return laid_out_as(call.empty_y(), y), laid_out_as(fresh, total) if call.adds else fresh.copy_(total)


@add_norm.register_fake
def _add_norm_fake(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    call = _call(given)
    return call.empty_y(), call.empty_sum()


def _save(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    call = _call(inputs)
    ctx.options = {name: getattr(call, name) for name in _OPTIONS}
    ctx.save_for_backward(*call.tensors)


def _backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    present = {
        name: tensor for name, tensor in zip(TENSORS, ctx.saved_tensors, strict=True) if tensor is not None
    }

    def again(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        call = Call(**dict(zip(present, tensors, strict=True)), **ctx.options)  # type: ignore[arg-type]
        total = reference_sum(call.x, call.residual, call.x_bias)
        return (normalise(call, total), total)[: len(upstream)]

    products = recompute.gradients(again, tuple(present.values()), upstream)
    found = dict(zip(present, products, strict=True))
    return tuple(found.get(name) for name in _ARGUMENTS)


norm.register_autograd(_backward, setup_context=_save)
add_norm.register_autograd(_backward, setup_context=_save)
