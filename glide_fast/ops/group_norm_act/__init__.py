"""Group normalisation with everything GLIDE's residual blocks do around it.

Replaces the official chain: concatenation of the skip connection, cast to fp32, ``F.group_norm``, cast back,
``* (1 + scale) + shift``, SiLU, resampling; and before it the second convolution's bias and the residual addition
(``GroupNorm32`` and ``ResBlock`` of the released model; Wu and He 2018, Perez et al. 2018, Ramachandran et al. 2017).
"""

from __future__ import annotations

from typing import Literal, overload

import torch

from glide_fast.ops.backends import Op
from glide_fast.ops.group_norm_act import cpu, cuda, reference, traced, triton
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result, check_arguments

OP: Op[Facts] = Op("group_norm_act", operator=traced.run_operator)
"""The backends of :func:`group_norm_act`. Their ``run`` takes a :class:`Call` and returns a :class:`Result`."""


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
    windows: bool = ...,
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
    windows: bool = ...,
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
    windows: bool = False,
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
        windows: write the result once more for each 3x3 window that a pixel is in, for ``[N, C, H, W]``: what a 3x3 convolution
            with padding 1 reads, as the rows of a matrix (:func:`glide_fast.ops.window_convolution`).

    Returns:
        ``y``: ``[N, C, ...]``, resampled; channels-last where x is. With ``windows`` it is ``[N, H, W, 9, C]``, contiguous, of
        the resampled height and width: a pixel's neighbourhood from the upper left to the lower right, zeros beyond the picture.
        With ``keep_sum`` ``(y, sum)``, the sum of x's shape and type. All arithmetic is fp32 (fp64 for fp64 input), rounded
        once at the end; the official code rounds to the activation type before FiLM and SiLU as well.

        A group of a single value has the variance 0, and so the result of its mean. NaN, or an infinity, among a group's values
        makes all of the group NaN.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(
        x,
        weight,
        bias,
        groups,
        eps,
        scale,
        shift,
        silu,
        x2,
        residual,
        x_bias,
        resample,
        out_dtype,
        keep_sum,
        windows,
    )
    check_arguments(call)
    result: Result = traced.compiled(call) if torch.compiler.is_compiling() else OP.run(call)
    return result.y if result.sum is None else (result.y, result.sum)


OP.register("cpu", cpu.run, cpu.supports, plain_only=True)
OP.register("cuda", cuda.run, cuda.supports, plain_only=True, plans=cuda.plans)
OP.register("triton", triton.run, triton.supports, plain_only=True, plans=triton.plans)
OP.register("reference", reference.run)
