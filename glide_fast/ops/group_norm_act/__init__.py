"""Group normalisation with everything GLIDE's residual blocks do around it.

Replaces the official chain: concatenation of the skip connection, cast to fp32, ``F.group_norm``, cast back,
``* (1 + scale) + shift``, SiLU, resampling; and before it the second convolution's bias and the residual addition
(``GroupNorm32`` and ``ResBlock`` of the released model; Wu and He 2018, Perez et al. 2018, Ramachandran et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F

from glide_fast.errors import invalid
from glide_fast.ops import checks, plain_tensor, recompute
from glide_fast.ops.backends import Op
from glide_fast.ops.group_norm_act import cpu, cuda, triton
from glide_fast.ops.group_norm_act.arguments import RESAMPLINGS, TENSORS, Call, Facts, Result

OP: Op[Facts] = Op("group_norm_act")
"""The backends of :func:`group_norm_act`. Their ``run`` takes a :class:`Call` and returns a :class:`Result`."""


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`group_norm_act`."""
    x, weight, bias = call.x, call.weight, call.bias
    if x.dim() < 3:
        raise invalid(
            "x", tuple(x.shape), "a tensor of shape [N, C, ...] with at least one spatial dimension"
        )
    n, channels = x.shape[:2]
    if not channels:
        raise invalid("x", tuple(x.shape), "a tensor with at least one channel")
    checks.floating("x", x)
    if call.x2 is not None:
        _check_beside("x2", call.x2, x, (n, call.x2.shape[1] if call.x2.dim() > 1 else 1, *x.shape[2:]))
        channels += call.x2.shape[1]
    if call.residual is not None:
        _check_beside("residual", call.residual, x, tuple(x.shape))
    if call.x_bias is not None and tuple(call.x_bias.shape) != (x.shape[1],):
        raise invalid("x_bias", tuple(call.x_bias.shape), f"a vector of x's {x.shape[1]} channels")
    if not checks.is_integer(call.groups) or call.groups < 1 or channels % call.groups:
        raise invalid("groups", call.groups, f"a divisor of the channel count {channels}")
    if tuple(weight.shape) != (channels,) or tuple(bias.shape) != (channels,):
        raise invalid(
            "weight, bias", (tuple(weight.shape), tuple(bias.shape)), f"two vectors of {channels} elements"
        )
    if (call.scale is None) != (call.shift is None):
        raise invalid(
            "scale, shift", (type(call.scale).__name__, type(call.shift).__name__), "both or neither"
        )
    for name, film in (("scale", call.scale), ("shift", call.shift)):
        if film is not None and tuple(film.shape) != (n, channels):
            raise invalid(name, tuple(film.shape), f"a tensor of shape {(n, channels)}")
    if call.resample is not None:
        _check_resampling(call.resample, x)
    eps = checks.epsilon("eps", call.eps)
    if not torch.compiler.is_compiling():  # which has a symbol for it
        call.eps = eps
    checks.flag("silu", call.silu)
    checks.flag("keep_sum", call.keep_sum)
    if call.out_dtype is not None and call.out_dtype is not x.dtype and call.out_dtype is not torch.float32:
        raise invalid("out_dtype", call.out_dtype, f"None, {x.dtype} (x's type) or torch.float32")


def _check_beside(name: str, tensor: torch.Tensor, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != x.dtype or tensor.device != x.device:
        wanted = f"[{x.shape[0]}, C2, {', '.join(map(str, x.shape[2:]))}]" if name == "x2" else str(shape)
        raise invalid(
            name,
            f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}",
            f"a tensor of shape {wanted}, {x.dtype}, on {x.device}, as x",
        )


def _check_resampling(mode: str, x: torch.Tensor) -> None:
    if not isinstance(mode, str) or mode not in RESAMPLINGS:
        raise invalid("resample", mode, f"None, {' or '.join(map(repr, RESAMPLINGS))}")
    if x.dim() != 4:
        raise invalid("resample", f"{mode!r} with x of shape {tuple(x.shape)}", "x of shape [N, C, H, W]")
    if mode == "mean_2x2" and (x.shape[2] % 2 or x.shape[3] % 2):
        raise invalid("resample", f"{mode!r} with x of shape {tuple(x.shape)}", "even H and W")


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type that everything is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def reference_sum(
    x: torch.Tensor, residual: torch.Tensor | None = None, x_bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What is normalised, for the channels of ``x``: ``x + x_bias + residual``, rounded to x's type once."""
    if residual is None and x_bias is None:
        return x
    wide = _wide(x.dtype)
    total = x.to(wide)
    if x_bias is not None:
        total = total + x_bias.to(wide).view(-1, *([1] * (x.dim() - 2)))
    if residual is not None:
        total = total + residual.to(wide)
    return total.to(x.dtype)


Norm = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor, float], torch.Tensor]


def _group_norm(
    x: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """``torch.group_norm`` in any layout under ``torch.vmap`` and forward-mode differentiation, exact for a single value."""
    values = x.reshape(
        x.shape[0], groups, math.prod(x.shape[1:]) // groups
    )  # -1 would be unknown for an empty batch
    centred = values - values.mean(-1, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    per_channel = (-1, *([1] * (x.dim() - 2)))
    return y.reshape(x.shape) * weight.view(per_channel) + bias.view(per_channel)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
    x2: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    x_bias: torch.Tensor | None = None,
    resample: str | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    norm: Norm = torch.group_norm,
) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`group_norm_act`.

    ``norm`` is ``torch.group_norm``, or stands in for it.
    """
    wide = _wide(x.dtype)
    total = reference_sum(x, residual, x_bias).to(wide)
    if x2 is not None:
        total = torch.cat([total, x2.to(wide)], dim=1)
    if total.numel() and total.numel() == total.shape[0] * groups:
        norm = _group_norm  # torch's takes the mean off last, and leaves a rounding of the large products of a single value
    y = norm(total, groups, weight.to(wide), bias.to(wide), eps)
    if scale is not None and shift is not None:
        per_channel = (*scale.shape, *([1] * (x.dim() - 2)))
        y = y * (1 + scale.to(wide).view(per_channel)) + shift.to(wide).view(per_channel)
    if silu:
        y = F.silu(y)
    if resample == "nearest_x2":
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
    elif resample == "mean_2x2":
        y = F.avg_pool2d(y, 2)
    return y.to(out_dtype or x.dtype)


def _run_reference(call: Call) -> Result:
    plain = torch.compiler.is_compiling() or plain_tensor.why_not(TENSORS, call.tensors) is None
    total = reference_sum(call.x, call.residual, call.x_bias)
    y = reference(
        total,
        call.weight,
        call.bias,
        call.groups,
        call.eps,
        call.scale,
        call.shift,
        call.silu,
        call.x2,
        resample=call.resample,
        out_dtype=call.out_dtype,
        norm=torch.group_norm if plain else _group_norm,
    )
    return Result(y, total if call.keep_sum else None)


@overload
def group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = ...,
    scale: torch.Tensor | None = ...,
    shift: torch.Tensor | None = ...,
    silu: bool = ...,
    *,
    x2: torch.Tensor | None = ...,
    residual: torch.Tensor | None = ...,
    x_bias: torch.Tensor | None = ...,
    keep_sum: Literal[False] = ...,
    resample: str | None = ...,
    out_dtype: torch.dtype | None = ...,
) -> torch.Tensor: ...


@overload
def group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = ...,
    scale: torch.Tensor | None = ...,
    shift: torch.Tensor | None = ...,
    silu: bool = ...,
    *,
    x2: torch.Tensor | None = ...,
    residual: torch.Tensor | None = ...,
    x_bias: torch.Tensor | None = ...,
    keep_sum: Literal[True],
    resample: str | None = ...,
    out_dtype: torch.dtype | None = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...


def group_norm_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float = 1e-5,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    silu: bool = False,
    *,
    x2: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    x_bias: torch.Tensor | None = None,
    keep_sum: bool = False,
    resample: str | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``resample(act((s - mean) / sqrt(var + eps) * weight + bias) * (1 + scale) + shift)``, statistics per sample and group.

    ``s`` is ``x + x_bias + residual``, followed on channels by ``x2``; each of these three may be absent.

    Args:
        x: ``[N, C1, ...]``, fp16, bf16, fp32 or fp64, any memory format.
        weight, bias: ``[C]`` with C = C1 + C2, any floating type, used in fp32.
        groups: divides C. ``groups`` neighbouring channels share mean and (biased) variance over all positions.
        eps: added to the variance; finite, 0 or more.
        scale, shift: ``[N, C]`` each, both or neither: FiLM from the timestep embedding.
        silu: apply ``y * sigmoid(y)``.
        x2: ``[N, C2, ...]`` of x's type: the skip connection. The concatenation is not materialised.
        residual: shape and type of ``x``, added to it.
        x_bias: ``[C1]``, any floating type, added to ``x``: the bias of the convolution that made it.
        keep_sum: return ``x + x_bias + residual`` too. It is rounded to x's type once, and the rounded values are what is
            normalised. Where there is nothing to add, it is ``x`` itself, not a copy.
        resample: of the result, for ``[N, C, H, W]``. ``"nearest_x2"`` repeats each position in a 2x2 square,
            ``"mean_2x2"`` (even H and W) is the mean of each 2x2 square, in fp32.
        out_dtype: None for x's type, or ``torch.float32``.

    Returns:
        ``y``: ``[N, C, ...]``, resampled; channels-last where x is. With ``keep_sum`` ``(y, sum)``, the sum of x's shape and
        type. All arithmetic is fp32 (fp64 for fp64 input), rounded once at the end; the official code rounds to the
        activation type before FiLM and SiLU as well.

        A group of a single value has the variance 0, and so the result of its mean. NaN, or an infinity, among a group's values
        makes all of the group NaN.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    checks.tensors(TENSORS, (x, weight, bias, scale, shift, x2, residual, x_bias), 3)
    call = Call(
        x, weight, bias, groups, eps, scale, shift, silu, x2, residual, x_bias, resample, out_dtype, keep_sum
    )
    check_arguments(call)
    result = _traced(call) if torch.compiler.is_compiling() else _run(call)
    return result.y if result.sum is None else (result.y, result.sum)


def _run(call: Call) -> Result:
    facts = call.facts()
    if facts.unreadable is not None and plain_tensor.as_one_node(call.tensors):
        return _one_node(call)
    return _run_on(facts, call)


def _run_on(facts: Facts, call: Call) -> Result:
    """The choice of a backend, and its result."""
    backend = OP.choose(facts, call)
    if backend.name == "reference":  # the others have looked at types and devices
        checks.any_floating(TENSORS, call.tensors)
        checks.together(TENSORS, call.tensors, call.x.device)
    result: Result = backend.run(call)
    return result


def _traced(call: Call) -> Result:
    """On a CPU the compiler fuses the reference; on a device it is to see one opaque op, and no graph break."""
    return _one_node(call) if call.x.is_cuda else _run_reference(call)


def _one_node(call: Call) -> Result:
    given = (
        *(call.x, call.weight, call.bias, call.groups, call.eps, call.scale, call.shift, call.silu),
        *(call.x2, call.residual, call.x_bias, call.resample, call.out_dtype),
    )
    if call.keep_sum and call.adds:
        return Result(*_add_op(*given))
    return Result(_custom_op(*given), call.x if call.keep_sum else None)


_ARGUMENTS = (
    "Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? scale, Tensor? shift, bool silu, "
    "Tensor? x2=None, Tensor? residual=None, Tensor? x_bias=None, str? resample=None, ScalarType? out_dtype=None"
)


def _laid_out_as(promised: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    return result if result.stride() == promised.stride() else promised.copy_(result)


@torch.library.custom_op("glide_fast::group_norm_act", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _custom_op(*arguments: Any) -> torch.Tensor:
    """The op for ``torch.compile``: the backend is chosen when it runs. Gradients are the reference's, computed again."""
    call = Call(*arguments)
    return _laid_out_as(call.empty_y(), _run_on(call.facts(), call).y)


@_custom_op.register_fake
def _custom_op_fake(*arguments: Any) -> torch.Tensor:
    return Call(*arguments).empty_y()


@torch.library.custom_op(
    "glide_fast::add_group_norm_act", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)"
)
def _add_op(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, with the sum. An op may not return its own input: where nothing is added, the sum is a copy."""
    call = Call(*arguments)
    call.keep_sum = True
    y, total = _run_on(call.facts(), call)
    assert total is not None
    fresh = call.empty_sum()
    return _laid_out_as(call.empty_y(), y), _laid_out_as(fresh, total) if call.adds else fresh.copy_(total)


@_add_op.register_fake
def _add_op_fake(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    call = Call(*arguments)
    return call.empty_y(), call.empty_sum()


def _save(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    call = Call(*inputs)
    ctx.options = {name: getattr(call, name) for name in ("groups", "eps", "silu", "resample", "out_dtype")}
    ctx.save_for_backward(*(getattr(call, name) for name in TENSORS))


def _backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    present = {
        name: tensor for name, tensor in zip(TENSORS, ctx.saved_tensors, strict=True) if tensor is not None
    }

    def again(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a: dict[str, Any] = dict(zip(present, tensors, strict=True))
        total = reference_sum(a["x"], a.pop("residual", None), a.pop("x_bias", None))
        y = reference(**{**a, "x": total}, **ctx.options)
        return (y, total)[: len(upstream)]

    products = recompute.gradients(again, tuple(present.values()), upstream)
    found = dict(zip(present, products, strict=True))
    x, weight, bias, scale, shift, x2, residual, x_bias = (found.get(name) for name in TENSORS)
    return x, weight, bias, None, None, scale, shift, None, x2, residual, x_bias, None, None


_custom_op.register_autograd(_backward, setup_context=_save)
_add_op.register_autograd(_backward, setup_context=_save)

OP.register("cpu", cpu.run, cpu.supports, plain_only=True)
OP.register("cuda", cuda.run, cuda.supports, plain_only=True)
OP.register("triton", triton.run, triton.supports, plain_only=True)
OP.register("reference", _run_reference)
