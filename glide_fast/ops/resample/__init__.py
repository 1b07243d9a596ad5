"""Twice or half the size: the skip branch of GLIDE's residual blocks that resize (``Upsample`` and ``Downsample``).

Replaces ``F.interpolate(mode="nearest")`` and ``F.avg_pool2d`` and, where the branch is the sum of a convolution's output, its
bias and an earlier activation, the additions in front of them: the sum is never written at its own size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor
from glide_fast.ops.backends import Op
from glide_fast.ops.layout import empty_pixels, pixel_strides
from glide_fast.ops.resample import cpu, triton

NEAREST_X2 = "nearest_x2"
MEAN_2X2 = "mean_2x2"
MODES = (NEAREST_X2, MEAN_2X2)


class Call(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype
    bias_dtype: torch.dtype | None  # None without a bias
    together: bool  # bias (side by side in memory) and residual are on x's device
    channels_last: bool  # x and residual: a pixel's channels lie side by side
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


_TENSORS = ("x", "bias", "residual")

OP: Op[Call] = Op("resample")
"""The backends of :func:`resample`."""


def check_arguments(
    x: torch.Tensor, mode: str, bias: torch.Tensor | None, residual: torch.Tensor | None
) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`resample`."""
    if not isinstance(mode, str) or mode not in MODES:
        raise invalid("mode", mode, " or ".join(map(repr, MODES)))
    checks.tensors(_TENSORS, (x, bias, residual), 1)
    checks.floating("x", x)
    if x.dim() != 4 or 0 in x.shape[1:]:
        accepted = "a floating-point tensor of shape [N, C, H, W] with C, H, W >= 1"
        raise invalid("x", f"{x.dtype} {tuple(x.shape)}", accepted)
    if mode == MEAN_2X2 and (x.shape[2] % 2 or x.shape[3] % 2):
        raise invalid("x", tuple(x.shape), f"an even height and width for {MEAN_2X2}")
    if bias is not None and tuple(bias.shape) != (x.shape[1],):
        raise invalid("bias", tuple(bias.shape), f"a vector of {x.shape[1]} elements")
    checks.any_floating(("bias",), (bias,))
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise invalid(
            "residual",
            f"{residual.dtype} {tuple(residual.shape)}",
            f"the type and shape of x, {x.dtype} {tuple(x.shape)}",
        )


def result_shape(x: torch.Tensor, mode: str) -> tuple[int, int, int, int]:
    """The shape of ``resample(x, mode)``."""
    n, c, height, width = x.shape
    return (n, c, 2 * height, 2 * width) if mode == NEAREST_X2 else (n, c, height // 2, width // 2)


def reference(
    x: torch.Tensor, mode: str, *, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`resample`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    s = x
    if bias is not None or residual is not None:
        total = x.to(wide)
        if bias is not None:
            total = total + bias.to(wide).view(-1, 1, 1)
        if residual is not None:
            total = total + residual.to(wide)
        s = total.to(x.dtype)
    if mode == NEAREST_X2:
        n, c, height, width = x.shape
        pixels = s.permute(0, 2, 3, 1)[:, :, None, :, None]
        y = pixels.expand(n, height, 2, width, 2, c).reshape(n, 2 * height, 2 * width, c).permute(0, 3, 1, 2)
    else:
        top, bottom = s[:, :, ::2].to(wide), s[:, :, 1::2].to(wide)
        above, below = top[..., ::2] + top[..., 1::2], bottom[..., ::2] + bottom[..., 1::2]
        y = ((above + below) * 0.25).to(x.dtype)
    if x.stride(1) != 1:
        return y.contiguous()
    # Not by a memory format, of which torch.vmap knows none.
    return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def facts(x: torch.Tensor, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None) -> Call:
    """The facts of a call with these (checked) arguments, for ``OP.choose`` and ``OP.explain``."""
    together, gradients = True, x.requires_grad
    channels_last = pixel_strides(x) is not None
    if bias is not None:
        together = bias.device == x.device and bias.stride(0) == 1
        gradients = gradients or bias.requires_grad
    if residual is not None:
        together = together and residual.device == x.device
        gradients = gradients or residual.requires_grad
        channels_last = channels_last and pixel_strides(residual) is not None
    return Call(
        x.device.type,
        x.dtype,
        None if bias is None else bias.dtype,
        together,
        channels_last,
        x.numel() == 0,
        gradients and torch.is_grad_enabled(),
        plain_tensor.why_not(_TENSORS, (x, bias, residual)),
    )


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
        once, so that it is the value which a model holds in memory; means are ``((a + b) + (c + d)) / 4`` of two rows ``a b`` and
        ``c d`` in fp32, rounded once (fp64 for fp64). The order is part of the contract: backends agree bit for bit, but for
        subnormal bf16 numbers, which some processors round to zero when they add.

    Raises:
        InvalidInputError: for shapes, types or a mode outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    check_arguments(x, mode, bias, residual)
    if torch.compiler.is_compiling():
        # On a CPU the compiler fuses the reference; on a device it is to see one opaque op, and no graph break.
        if x.is_cuda:
            return _custom_op(x, mode, bias, residual)
        return reference(x, mode, bias=bias, residual=residual)
    known = facts(x, bias, residual)
    if known.unreadable is not None and plain_tensor.as_one_node((x, bias, residual)):
        return _custom_op(x, mode, bias, residual)
    backend = OP.choose(known, x, mode, bias=bias, residual=residual)
    if not known.together:
        checks.together(_TENSORS, (x, bias, residual), x.device)
    result: torch.Tensor = backend.run(x, mode, bias=bias, residual=residual)
    return result


@torch.library.custom_op(
    "glide_fast::resample",
    mutates_args=(),
    schema="(Tensor x, str mode, Tensor? bias, Tensor? residual) -> Tensor",
)
def _custom_op(
    x: torch.Tensor, mode: str, bias: torch.Tensor | None, residual: torch.Tensor | None
) -> torch.Tensor:
    """The op for ``torch.compile``: the backend is chosen when it runs."""
    backend = OP.choose(facts(x, bias, residual), x, mode, bias=bias, residual=residual)
    result: torch.Tensor = backend.run(x, mode, bias=bias, residual=residual)
    # With one channel, say, the same memory has two descriptions.
    promised = empty_pixels(x, result_shape(x, mode))
    return result if result.stride() == promised.stride() else promised.copy_(result)


@_custom_op.register_fake
def _(x: torch.Tensor, mode: str, bias: torch.Tensor | None, residual: torch.Tensor | None) -> torch.Tensor:
    return empty_pixels(x, result_shape(x, mode))


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, ctx.mode, bias, residual = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.has_residual = residual is not None


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Resampling is linear, so nothing need be kept: each mode's derivative is four times or a quarter of the other mode."""
    other, factor = (MEAN_2X2, 4.0) if ctx.mode == NEAREST_X2 else (NEAREST_X2, 0.25)
    gradient = reference(upstream, other) * factor
    bias = None
    if ctx.bias_dtype is not None:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        bias = gradient.sum((0, 2, 3), dtype=wide).to(ctx.bias_dtype)
    return gradient, None, bias, gradient if ctx.has_residual else None


_custom_op.register_autograd(_backward, setup_context=_save)

OP.register("cpu", cpu.run, cpu.supports, plain_only=True)
OP.register("triton", triton.run, triton.supports, plain_only=True)
OP.register("reference", reference)
