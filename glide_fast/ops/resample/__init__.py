"""Resizing to twice or half the size: the skip branch of GLIDE's residual blocks that resize (``Upsample``, ``Downsample``).

Replaces ``F.interpolate(mode="nearest")`` and ``F.avg_pool2d``. Where the input of the branch is the sum of a convolution's
output, its bias and an earlier activation, it also replaces the additions: the sum is never written before it is resized.
"""

from __future__ import annotations

import torch

from glide_fast.ops.backends import Op
from glide_fast.ops.resample import cpu, reference, traced, triton
from glide_fast.ops.resample.arguments import Call, Facts, check_arguments

OP: Op[Facts] = Op("resample", operator=traced.NODE)
"""The backends of :func:`resample`. Their ``run`` takes a :class:`Call` and returns the result."""


def resample(
    x: torch.Tensor, mode: str, *, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """``x + bias + residual`` at twice the size, or its means over 2x2 pixels.

    Args:
        x: ``[N, C, H, W]``, fp16, bf16, fp32 or fp64, any memory format.
        mode: "nearest_x2" repeats every pixel 2x2 times; "mean_2x2" (even H and W) takes the mean of every 2x2 pixels.
        bias: ``[C]``, any floating type.
        residual: type and shape of ``x``.

    Returns:
        ``[N, C, 2 H, 2 W]`` or ``[N, C, H / 2, W / 2]`` of x's type, dense; channels-last where x's channels lie side by side,
        else contiguous. With a bias or a residual the sum is taken in fp32, in the order written, and rounded to x's type
        once, as it would be if it were stored; means are ``((a + b) + (c + d)) / 4`` of two rows ``a b`` and ``c d`` in fp32,
        rounded once (fp64 for fp64). The order is part of the contract: backends agree bit for bit, except for subnormal bf16
        numbers, which some processors round to zero when they add.

    Raises:
        InvalidInputError: for shapes, types or a mode outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(x, mode, bias, residual)
    check_arguments(call)
    result: torch.Tensor = traced.NODE.compiled(call) if torch.compiler.is_compiling() else OP.run(call)
    return result


OP.register("cpu", cpu.run, cpu.supports, plain_only=True)
OP.register("triton", triton.run, triton.supports, plain_only=True, plans=triton.plans)
OP.register("reference", reference.run)
