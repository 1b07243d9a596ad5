"""resample as one operator, for tools that record operators instead of running them (torch.compile, export)."""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops.custom_op import CustomOp
from glide_fast.ops.resample import reference
from glide_fast.ops.resample.arguments import MEAN_2X2, NEAREST_X2, Call


class _Linear(CustomOp):
    """Resampling is linear, so the backward pass needs no input: it is the other mode, times four or a quarter."""

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        call = Call(*inputs)
        ctx.mode = call.mode
        ctx.bias_dtype = None if call.bias is None else call.bias.dtype
        ctx.has_residual = call.residual is not None

    def _backward(self, ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        other, factor = (MEAN_2X2, 4.0) if ctx.mode == NEAREST_X2 else (NEAREST_X2, 0.25)
        gradient = reference.reference(*upstream, other) * factor
        found = {"x": gradient}
        if ctx.has_residual:
            found["residual"] = gradient
        if ctx.bias_dtype is not None:
            wide = torch.promote_types(gradient.dtype, torch.float32)
            found["bias"] = gradient.sum((0, 2, 3), dtype=wide).to(ctx.bias_dtype)
        return tuple(found.get(name) for name in self.names)


NODE = _Linear("resample", Call, reference.run_unchecked)
