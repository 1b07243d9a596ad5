"""A 3x3 convolution as a matrix product: of windows that a norm has written, with bias and residual added on the way out.

Replaces ``F.conv2d(x, weight, bias, padding=1) + residual`` where :func:`glide_fast.ops.group_norm_act` has written ``x`` with
``windows=True`` (im2col, Chellapilla et al. 2006, by the kernel that makes the values). At few pixels a GPU's library multiplies
matrices two to three times as fast as it convolves.
"""

from __future__ import annotations

import torch

from glide_fast.ops import checks
from glide_fast.ops.backends import Op
from glide_fast.ops.window_convolution import matmul, reference, traced
from glide_fast.ops.window_convolution.arguments import TENSORS, Call, Facts, check_arguments

OP: Op[Facts] = Op("window_convolution", operator=traced.NODE)
"""The backends of :func:`window_convolution`. Their ``run`` takes a :class:`Call` and returns the result."""


def window_convolution(
    windows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """``conv2d(x, weight, bias, padding=1) + residual``, where ``windows`` holds the 3x3 neighbourhood of each pixel of ``x``.

    Args:
        windows: ``[N, H, W, 9, C]``, fp16, bf16, fp32 or fp64; the nine pixels from the upper left to the lower right, zeros
            beyond the picture. The fast backend wants them contiguous.
        weight: ``[O, C, 3, 3]`` of the same type. The fast backend wants it channels-last and dense.
        bias: ``[O]``, of that type or fp32, or None.
        residual: ``[N, O, H, W]`` of that type, or None; the fast backend wants it channels-last and dense.

    Returns:
        ``[N, O, H, W]`` in that type, channels-last. Products are summed in fp32 (fp64 for fp64), whatever torch allows matrix
        products to do, and rounded once, after bias and residual. ``matmul`` rounds an fp32 bias to the type first, and where
        there is a residual adds the bias to that, which is rounded too.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(windows, weight, bias, residual)
    check_arguments(call)
    if torch.compiler.is_compiling():
        return traced.NODE.compiled(call)  # type: ignore[no-any-return]
    checks.together(TENSORS, call.tensors, windows.device)
    result: torch.Tensor = OP.run(call)
    return result


OP.register("matmul", matmul.run, matmul.supports, plain_only=True)
OP.register("reference", reference.run)
