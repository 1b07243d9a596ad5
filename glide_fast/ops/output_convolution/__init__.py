"""The 3x3 convolution at a network's end: from many channels to few, with fp32 weights, to an fp32 result.

Replaces ``conv2d(h.float(), weight, bias, padding=1)`` of the released model's output layer, which keeps its weights in fp32
beside a network in half precision.
"""

from __future__ import annotations

import torch

from glide_fast.ops import checks
from glide_fast.ops.backends import Op
from glide_fast.ops.output_convolution import reference, traced, triton
from glide_fast.ops.output_convolution.arguments import TENSORS, Call, Facts, check_arguments

OP: Op[Facts] = Op("output_convolution", operator=traced.NODE)
"""The backends of :func:`output_convolution`. Their ``run`` takes a :class:`Call` and returns the result."""


def output_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``conv2d(x, weight, bias, padding=1)`` in fp32, of ``x`` as it is.

    Args:
        x: ``[N, C, H, W]``, fp16, bf16, fp32 or fp64. The fast backend takes fp16 and fp32, channels-last and dense.
        weight: ``[O, C, 3, 3]``, fp32; fp64 for an ``x`` of fp64.
        bias: ``[O]`` of the weight's type, or None.

    Returns:
        ``[N, O, H, W]`` in the weight's type, channels-last where x is. Products are summed in that type. ``triton`` takes a
        weight as the sum of two fp16 values (or, for an fp32 ``x``, both factors as sums of two TF32 values): each product errs
        by at most 2^-20 of itself, or of the same product with the largest of the weights that are multiplied for the same
        result and tap.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(x, weight, bias)
    check_arguments(call)
    if torch.compiler.is_compiling():
        return traced.NODE.compiled(call)  # type: ignore[no-any-return]
    checks.together(TENSORS, call.tensors, x.device)
    result: torch.Tensor = OP.run(call)
    return result


OP.register("triton", triton.run, triton.supports, plain_only=True, plans=triton.plans)
OP.register("reference", reference.run)
