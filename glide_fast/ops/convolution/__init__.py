"""Convolution with its bias and the block's skip connection added on the way out.

Replaces ``F.conv2d`` followed by ``+ skip`` at the end of GLIDE's residual and attention blocks (``ResBlock`` and
``AttentionBlock`` of the released ``unet.py``): about 90 % of the model's arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glide_fast.ops import checks, plain_tensor
from glide_fast.ops.backends import Op
from glide_fast.ops.convolution import cudnn, narrow, onednn, reference, traced, triton, winograd
from glide_fast.ops.convolution.arguments import TENSORS, Call, Facts, check_arguments
from glide_fast.ops.convolution.packed_weight import PackedWeight

OP: Op[Facts] = Op("convolution")
"""The backends of :func:`convolution`. Their ``run`` takes a :class:`Call` and returns the result."""


def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | None = None,
) -> torch.Tensor:
    """``conv2d(x, weight) + bias + residual``, without groups or dilation.

    Args:
        x: ``[N, C, H, W]``, fp16, bf16, fp32 or fp64. The fast backends want it channels-last and dense.
        weight: ``[O, C, kh, kw]``, or ``[O, C, 1]`` or ``[O, C]`` for a 1x1 convolution (a 1-d projection's); of x's type. A
            :class:`~glide_fast.ops.convolution.packed_weight.PackedWeight` saves the CPU from packing it at every call.
        bias: ``[O]``, of x's type or fp32, or None.
        residual: ``[N, O, H', W']`` of x's type, or None: the skip connection.
        stride: positive; one number, or two: vertical and horizontal.
        padding: zeros around the image; one number, or two, or None for half the kernel.

    Returns:
        ``[N, O, H', W']`` with ``H' = (H + 2 * padding - kh) // stride + 1``, in x's type; channels-last if x is. Products are
        summed in fp32 (fp64 for fp64). ``onednn``, ``triton`` and ``reference`` round once, after bias and residual; ``winograd``
        also rounds sums of two pixels and of three weights before it multiplies them; ``cudnn`` rounds after each. An fp32 bias
        is rounded to x's type first by ``cudnn``, and by ``onednn`` where there is a residual.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(x, weight, bias, residual, stride, padding)
    check_arguments(call)
    if torch.compiler.is_compiling() and not isinstance(weight, PackedWeight):
        # On a CPU the compiler packs and fuses torch's own; on a device it is to see one opaque op, and no graph break.
        if x.is_cuda:
            return traced.NODE(call)
        return (reference if _wrong(call) else cudnn).run(call)
    facts = call.facts()
    if facts.unreadable is not None:
        if plain_tensor.as_one_node(call.tensors):
            return traced.NODE(call)
        if isinstance(weight, PackedWeight):
            dense = plain_tensor.outside_of_traces(weight.dense)
            call = Call(x, dense, bias, residual, stride, padding)
    backend = OP.choose(facts, call)
    if not facts.alike:
        checks.together(TENSORS, call.tensors, x.device)
    result: torch.Tensor = backend.run(call)
    return result


def _wrong(call: Call) -> bool:
    """Whether torch's own convolution gives wrong values."""
    return (
        narrow.why_wrong(call.x.device.type, call.x.dtype, call.window.stride[1], call.result_shape[3])
        is not None
    )


# A weight is in tiles only where that was found to be faster (tiling.py), and no other backend reads tiles.
OP.register("winograd", winograd.run, winograd.supports, plain_only=True)
OP.register("onednn", onednn.run, onednn.supports, plain_only=True, as_measured=onednn.as_measured)
OP.register("triton", triton.run, triton.supports, triton.worth, plain_only=True, plans=triton.plans)
OP.register("cudnn", cudnn.run, cudnn.supports)
OP.register("reference", reference.run, as_measured=reference.as_measured)
