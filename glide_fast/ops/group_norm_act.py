"""Group normalisation with everything GLIDE's residual blocks do around it: FiLM and SiLU.

Replaces the official chain cast to fp32, ``F.group_norm``, cast back, ``* (1 + scale) + shift``, SiLU
(``GroupNorm32`` and ``ResBlock`` of the released model; Wu and He 2018, Perez et al. 2018, Ramachandran et al. 2017).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from glide_fast.errors import invalid
from glide_fast.ops import group_norm_act_cpu, group_norm_act_cuda, group_norm_act_triton, recompute
from glide_fast.ops.backends import Op
from glide_fast.ops.layout import channel_rows


class Call(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    dtype: torch.dtype
    affine_dtype: torch.dtype  # of weight
    film_dtype: torch.dtype | None  # of scale; None without FiLM
    alike: bool  # bias like weight and shift like scale; each dense over channels and on x's device
    channels_last: bool
    empty: bool
    gradients: bool
    tracing: bool  # by torch.compile


OP: Op[Call] = Op("group_norm_act")
"""The backends of :func:`group_norm_act`."""


def check_arguments(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`group_norm_act`."""
    if x.dim() < 3:
        raise invalid(
            "x", tuple(x.shape), "a tensor of shape [N, C, ...] with at least one spatial dimension"
        )
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise invalid("groups", groups, f"a divisor of the channel count {channels}")
    if tuple(weight.shape) != (channels,) or tuple(bias.shape) != (channels,):
        raise invalid(
            "weight, bias", (tuple(weight.shape), tuple(bias.shape)), f"two vectors of {channels} elements"
        )
    if (scale is None) != (shift is None):
        raise invalid("scale, shift", (type(scale).__name__, type(shift).__name__), "both or neither")
    for name, film in (("scale", scale), ("shift", shift)):
        if film is not None and tuple(film.shape) != (x.shape[0], channels):
            raise invalid(name, tuple(film.shape), f"a tensor of shape {(x.shape[0], channels)}")


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`group_norm_act`."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = F.group_norm(x.to(wide), groups, weight.to(wide), bias.to(wide), eps)
    if scale is not None and shift is not None:
        per_channel = (*scale.shape, *([1] * (x.dim() - 2)))
        y = y * (1 + scale.to(wide).view(per_channel)) + shift.to(wide).view(per_channel)
    if silu:
        y = F.silu(y)
    return y.to(x.dtype)


def facts(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> Call:
    """The facts of a call with these (checked) arguments, for ``OP.choose`` and ``OP.explain``."""
    device, affine_dtype, film_dtype = x.device, weight.dtype, None
    gradients, alike = x.requires_grad, True
    for p in (weight, bias):
        alike = alike and p.dtype == affine_dtype and p.device == device and p.stride(-1) == 1
        gradients = gradients or p.requires_grad
    if scale is not None and shift is not None:
        film_dtype = scale.dtype
        for p in (scale, shift):
            alike = alike and p.dtype == film_dtype and p.device == device and p.stride(-1) == 1
            gradients = gradients or p.requires_grad
    return Call(
        device.type,
        x.dtype,
        affine_dtype,
        film_dtype,
        alike,
        channel_rows(x) is not None,
        x.numel() == 0,
        gradients and torch.is_grad_enabled(),
        torch.compiler.is_compiling(),
    )


def group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
) -> torch.Tensor:
    """``act((x - mean) / sqrt(var + eps) * weight + bias) * (1 + scale) + shift)`` with statistics per sample and group.

    Args:
        x: ``[N, C, ...]``, fp16, bf16, fp32 or fp64, any memory format.
        weight, bias: ``[C]``, any floating type, used in fp32.
        groups: divides C. ``groups`` neighbouring channels share mean and (biased) variance over all positions.
        eps: added to the variance.
        scale, shift: ``[N, C]`` each, both or neither: FiLM from the timestep embedding.
        silu: apply ``y * sigmoid(y)`` last.

    Returns:
        Shape, type and memory format of ``x``. All arithmetic is fp32 (fp64 for fp64 input), rounded once at the end;
        the official code rounds to the activation type before FiLM and SiLU as well.

    Raises:
        InvalidInputError: for shapes outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    check_arguments(x, weight, bias, groups, scale, shift)
    if torch.compiler.is_compiling():
        # On a CPU the compiler fuses the reference; on a device it is to see one opaque op, and no graph break.
        run = _custom_op if x.is_cuda else reference
        return run(x, weight, bias, groups, eps, scale, shift, silu)
    backend = OP.choose(facts(x, weight, bias, scale, shift))
    result: torch.Tensor = backend.run(x, weight, bias, groups, eps, scale, shift, silu)
    return result


@torch.library.custom_op(
    "glide_fast::group_norm_act",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? scale, Tensor? shift, bool silu) -> Tensor",
)
def _custom_op(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    silu: bool,
) -> torch.Tensor:
    """The op for ``torch.compile``: the backend is chosen when it runs. Gradients are the reference's, computed again."""
    backend = OP.choose(facts(x, weight, bias, scale, shift))
    result: torch.Tensor = backend.run(x, weight, bias, groups, eps, scale, shift, silu)
    promised = torch.empty_like(x)
    return result if result.stride() == promised.stride() else promised.copy_(result)


@_custom_op.register_fake
def _custom_op_fake(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, ctx.groups, ctx.eps, scale, shift, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias, scale, shift)


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    def again(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *film: torch.Tensor) -> torch.Tensor:
        scale, shift = film or (None, None)
        return reference(x, weight, bias, ctx.groups, ctx.eps, scale, shift, ctx.silu)

    inputs = [tensor for tensor in ctx.saved_tensors if tensor is not None]
    x, weight, bias, *film = recompute.gradients(again, inputs, upstream)
    return x, weight, bias, None, None, *(film or (None, None)), None


_custom_op.register_autograd(_backward, setup_context=_save)

OP.register("cpu", group_norm_act_cpu.run, group_norm_act_cpu.supports)
OP.register("cuda", group_norm_act_cuda.run, group_norm_act_cuda.supports)
OP.register("triton", group_norm_act_triton.run, group_norm_act_triton.supports)
OP.register("reference", reference)
