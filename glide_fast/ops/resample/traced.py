"""resample where torch compiles or records: on a device one opaque operator, whose backend is chosen when it runs."""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops import backends, schema
from glide_fast.ops.layout import laid_out_as
from glide_fast.ops.resample import reference
from glide_fast.ops.resample.arguments import MEAN_2X2, NEAREST_X2, Call

_ARGUMENTS = schema.arguments(Call)


def compiled(call: Call) -> torch.Tensor:
    """The call under ``torch.compile``: on a CPU the reference, which the compiler fuses; on a device one operator."""
    return run_operator(call) if call.x.is_cuda else reference.run_unchecked(call)


def run_operator(call: Call) -> torch.Tensor:
    """The call as one operator of torch."""
    return operator(*[getattr(call, name) for name in _ARGUMENTS])


@torch.library.custom_op(
    "glide_fast::resample", mutates_args=(), schema=f"({schema.of_operator(Call)}) -> Tensor"
)
def operator(*given: Any) -> torch.Tensor:
    """The op on tensors that have values."""
    call = Call(*given)
    return laid_out_as(call.empty_result(), backends.named("resample").run_chosen(call))


@operator.register_fake
def _fake(*given: Any) -> torch.Tensor:
    return Call(*given).empty_result()


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    call = Call(*inputs)
    ctx.mode = call.mode
    ctx.bias_dtype = None if call.bias is None else call.bias.dtype
    ctx.has_residual = call.residual is not None


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Resampling is linear, so nothing need be kept: each mode's derivative is four times or a quarter of the other mode."""
    other, factor = (MEAN_2X2, 4.0) if ctx.mode == NEAREST_X2 else (NEAREST_X2, 0.25)
    gradient = reference.reference(upstream, other) * factor
    found = {"x": gradient, "residual": gradient if ctx.has_residual else None}
    if ctx.bias_dtype is not None:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        found["bias"] = gradient.sum((0, 2, 3), dtype=wide).to(ctx.bias_dtype)
    return tuple(found.get(name) for name in _ARGUMENTS)


operator.register_autograd(_backward, setup_context=_save)
