"""group_norm_act for what records operators instead of running them: two operators, with the sum and without."""

from __future__ import annotations

import torch

from glide_fast.ops.custom_op import CustomOp
from glide_fast.ops.group_norm_act.arguments import Call, Result
from glide_fast.ops.group_norm_act.reference import normalise, reference_sum, run_unchecked
from glide_fast.ops.layout import laid_out_as


class _Norm(CustomOp):
    """Returns y alone."""

    def empty(self, call: Call) -> torch.Tensor:
        return call.empty_y()

    def returned(self, call: Call, result: Result) -> torch.Tensor:
        return laid_out_as(self.empty(call), result.y)


class _AddNorm(CustomOp):
    """Returns y and the sum. An operator may not return its own input: where nothing is added, the sum is a copy."""

    def empty(self, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        return call.empty_y(), call.empty_sum()

    def returned(self, call: Call, result: Result) -> tuple[torch.Tensor, torch.Tensor]:
        y, total = self.empty(call)
        assert result.sum is not None
        kept = laid_out_as(total, result.sum) if call.adds else total.copy_(result.sum)
        return laid_out_as(y, result.y), kept


def _maths(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    total = reference_sum(call.x, call.residual, call.x_bias)
    return normalise(call, total), total


NORM = _Norm("group_norm_act", Call, lambda call: _maths(call)[0], fixed={"keep_sum": False})
ADD_NORM = _AddNorm(
    "group_norm_act",
    Call,
    _maths,
    operator="add_group_norm_act",
    returns="(Tensor, Tensor)",
    fixed={"keep_sum": True},
)


def compiled(call: Call) -> Result:
    """The call under ``torch.compile``: on a CPU the reference, which the compiler fuses; on a device one operator."""
    return run_operator(call) if call.x.is_cuda else run_unchecked(call)


def run_operator(call: Call) -> Result:
    """The call as one operator of torch."""
    if call.keep_sum and call.adds:
        return Result(*ADD_NORM(call))
    return Result(NORM(call), call.x if call.keep_sum else None)
