"""Convolution with its bias and the block's skip connection added on the way out.

Replaces ``F.conv2d`` followed by ``+ skip`` at the end of GLIDE's residual and attention blocks (``ResBlock`` and
``AttentionBlock`` of the released ``unet.py``): about 90 % of the model's arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, recompute
from glide_fast.ops.backends import Op
from glide_fast.ops.convolution import cudnn, narrow, onednn, triton, winograd
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.convolution.window import Window, as_kernel, window


class Call(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype  # of x, weight and residual
    bias_dtype: torch.dtype | None  # None without bias
    window: Window
    channels: tuple[int, int]  # of x, of the result
    batch: int
    size: tuple[int, int]  # height and width of the result
    residual: bool
    packed: bool  # weight is a whole PackedWeight that oneDNN's copy can be read of
    tiled: bool  # weight is a whole PackedWeight in the layout of Winograd's kernel, and bias is dense
    channels_last: bool  # x and residual, densely
    in_place: bool  # weight is a plain tensor whose input channels lie side by side, and bias is dense
    alike: bool  # all operands on x's device
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


_TENSORS = ("x", "weight", "bias", "residual")

OP: Op[Call] = Op("convolution")
"""The backends of :func:`convolution`."""


def check_arguments(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | None,
) -> Window:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`convolution`; return the window."""
    checks.tensors(_TENSORS, (x, weight, bias, residual), 2)
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise invalid("x", tuple(x.shape), "a tensor of shape [N, C, H, W] with C, H, W >= 1")
    made = window(weight, stride, padding)
    outputs, channels = weight.shape[:2]
    if channels != x.shape[1]:
        raise invalid("weight", tuple(weight.shape), f"a weight for the {x.shape[1]} channels of x")
    if x.dtype not in checks.FLOATING or weight.dtype != x.dtype:
        raise invalid("x, weight", (x.dtype, weight.dtype), "one floating type for both")
    height, width = made.size(*x.shape[2:])
    if height < 1 or width < 1:
        raise invalid("x", tuple(x.shape), f"an image that a window of {made} fits into")
    if bias is not None:
        if tuple(bias.shape) != (outputs,):
            raise invalid("bias", tuple(bias.shape), f"a vector of {outputs} elements")
        if bias.dtype not in (x.dtype, torch.float32):
            raise invalid("bias", bias.dtype, f"{x.dtype} or torch.float32")
    if residual is not None:
        if tuple(residual.shape) != (x.shape[0], outputs, height, width):
            raise invalid(
                "residual",
                tuple(residual.shape),
                f"the result's shape {(x.shape[0], outputs, height, width)}",
            )
        if residual.dtype != x.dtype:
            raise invalid("residual", residual.dtype, f"the type of x, {x.dtype}")
    return made


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`convolution`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.conv2d(
        x.to(wide), as_kernel(weight).to(wide), None if bias is None else bias.to(wide), stride, padding
    )
    if residual is not None:
        y = y + residual
    return y.to(x.dtype)


def facts(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | None = None,
) -> Call:
    """The facts of a call with these (checked) arguments, for ``OP.choose`` and ``OP.explain``."""
    return _facts(x, weight, bias, residual, window(weight, stride, padding))


def _facts(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    made: Window,
) -> Call:
    # The copies that a PackedWeight holds are read, not its address.
    plain_weight = None if isinstance(weight, PackedWeight) else weight
    operands = [x, weight, *(o for o in (bias, residual) if o is not None)]
    unreadable = plain_tensor.why_not(_TENSORS, (x, plain_weight, bias, residual))
    return Call(
        x.device.type,
        x.dtype,
        None if bias is None else bias.dtype,
        made,
        (x.shape[1], weight.shape[0]),
        x.shape[0],
        made.size(*x.shape[2:]),
        residual is not None,
        isinstance(weight, PackedWeight) and weight.packed is not None,
        isinstance(weight, PackedWeight) and weight.tiles is not None and _dense(bias),
        # torch.vmap's tensors know of no memory format.
        unreadable is None
        and all(o is None or o.is_contiguous(memory_format=torch.channels_last) for o in (x, residual)),
        _in_place(weight) and _dense(bias),
        all(o.device == x.device for o in operands),
        x.numel() == 0,
        torch.is_grad_enabled() and any(o.requires_grad for o in operands),
        unreadable,
    )


def _dense(vector: torch.Tensor | None) -> bool:
    return vector is None or vector.stride(0) == 1


def _in_place(weight: torch.Tensor) -> bool:
    return not isinstance(weight, PackedWeight) and (weight.stride(1) == 1 or weight.shape[1] == 1)


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
    made = check_arguments(x, weight, bias, residual, stride, padding)
    if torch.compiler.is_compiling() and not isinstance(weight, PackedWeight):
        # On a CPU the compiler packs and fuses torch's own; on a device it is to see one opaque op, and no graph break.
        run = _custom_op if x.is_cuda else reference if _wrong(x, made) else cudnn.run
        return run(x, weight, bias, residual, made.stride, made.padding)
    operands = x, weight, bias, residual
    known = _facts(*operands, made)
    if known.unreadable is not None and plain_tensor.as_one_node(operands):
        return _custom_op(*operands, made.stride, made.padding)
    if known.unreadable is not None and isinstance(weight, PackedWeight):
        weight = plain_tensor.outside_of_traces(weight.dense)
        operands = x, weight, bias, residual
    backend = OP.choose(known, *operands, made.stride, made.padding)
    if not known.alike:
        checks.together(_TENSORS, operands, x.device)
    result: torch.Tensor = backend.run(*operands, made.stride, made.padding)
    return result


def _wrong(x: torch.Tensor, made: Window) -> bool:
    width = made.size(*x.shape[2:])[1]
    return narrow.why_wrong(x.device.type, x.dtype, made.stride[1], width) is not None


@torch.library.custom_op(
    "glide_fast::convolution",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int[2] stride, int[2] padding) -> Tensor",
)
def _custom_op(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """The op for ``torch.compile``: the backend is chosen when it runs. Gradients are the reference's, computed again."""
    backend = OP.choose(
        facts(x, weight, bias, residual, stride, padding), x, weight, bias, residual, stride, padding
    )
    result: torch.Tensor = backend.run(x, weight, bias, residual, tuple(stride), tuple(padding))
    promised = _promised(x, weight, stride, padding)
    return result if result.stride() == promised.stride() else promised.copy_(result)


@_custom_op.register_fake
def _promised(
    x: torch.Tensor,
    weight: torch.Tensor,
    *rest: Any,
) -> torch.Tensor:
    *_, stride, padding = rest
    size = window(weight, stride, padding).size(x.shape[2], x.shape[3])
    layout = (
        torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    )
    return x.new_empty((x.shape[0], weight.shape[0], *size)).to(memory_format=layout)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, residual, ctx.stride, ctx.padding = inputs
    ctx.optional = (bias is not None, residual is not None)
    ctx.save_for_backward(*(t for t in (x, weight, bias, residual) if t is not None))


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    with_bias, with_residual = ctx.optional

    def again(x: torch.Tensor, weight: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        bias = rest[0] if with_bias else None
        residual = rest[-1] if with_residual else None
        return reference(x, weight, bias, residual, ctx.stride, ctx.padding)

    x, weight, *rest = recompute.gradients(again, ctx.saved_tensors, upstream)
    return x, weight, rest[0] if with_bias else None, rest[-1] if with_residual else None, None, None


_custom_op.register_autograd(_backward, setup_context=_save)

OP.register(
    "winograd",
    winograd.run,
    winograd.supports,
    winograd.worth,
    plain_only=True,
)
OP.register("onednn", onednn.run, onednn.supports, plain_only=True)
OP.register("cudnn", cudnn.run, cudnn.supports)
OP.register("triton", triton.run, triton.supports, triton.worth, plain_only=True)
OP.register("reference", reference)
