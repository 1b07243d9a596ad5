"""The maths of guided_step in plain torch: the ground truth for every backend. The formulas are in the package's docstring."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from glide_fast.ops import checks, plain_tensor
from glide_fast.ops.guided_step.arguments import (
    TENSORS,
    Call,
    Column,
    Step,
    check_memory,
    check_step,
)


class Prediction(NamedTuple):
    """The network's prediction at one step, both fp32 ``[N, C, H, W]``."""

    x0: torch.Tensor
    log_variance: torch.Tensor


def column(rows: torch.Tensor, index: int, like: torch.Tensor) -> torch.Tensor:
    """One column of ``rows`` (``[COUNT]`` or ``[N, COUNT]``), shaped to broadcast against ``like`` ``[N, ...]``."""
    # fp16 states are promoted, as the fp32 tables of the official loop do; fp64 ones stay fp64.
    values = rows[..., index].to(torch.promote_types(like.dtype, torch.float32))
    return values if values.dim() == 0 else values.view(-1, *([1] * (like.dim() - 1)))


def mix_guidance(
    model_out: torch.Tensor, channels: int, guidance_scale: float | torch.Tensor | None
) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2021) on a doubled batch, conditional half first.

    ``model_out`` is ``[2 N, 2 C, H, W]`` and the result ``[N, 2 C, H, W]``, in fp32 at least: eps is mixed, the variance
    channels are taken from the conditional half. Without a scale the batch is not doubled and is returned unchanged.
    """
    if guidance_scale is None:
        return model_out
    if isinstance(guidance_scale, torch.Tensor):
        guidance_scale = guidance_scale.view(-1, *([1] * (model_out.dim() - 1)))
    model_out = model_out.to(torch.promote_types(model_out.dtype, torch.float32))
    conditional, unconditional = model_out.chunk(2, dim=0)
    eps_c, eps_u = conditional[:, :channels], unconditional[:, :channels]
    eps = eps_u + guidance_scale * (eps_c - eps_u)
    return torch.cat([eps, conditional[:, channels:]], dim=1)


def predict(x: torch.Tensor, model_out: torch.Tensor, rows: torch.Tensor) -> Prediction:
    """Split ``model_out`` ``[N, 2 C, H, W]`` into x0 and the learned-range log variance.

    ``rows`` is one row of a coefficient table ``[Column.COUNT]``, or one row for each sample ``[N, Column.COUNT]``.
    """
    eps, v = model_out.to(torch.promote_types(x.dtype, torch.float32)).split(x.shape[1], dim=1)
    frac = (v + 1) / 2
    log_variance = frac * column(rows, Column.MAX_LOG, x) + (1 - frac) * column(rows, Column.MIN_LOG, x)
    x0 = column(rows, Column.SQRT_RECIP, x) * x - column(rows, Column.SQRT_RECIPM1, x) * eps
    return Prediction(x0, log_variance)


def eps_from_x0(x: torch.Tensor, x0: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The noise that ``x`` would hold if its clean image were ``x0``; inverse of :func:`predict`'s x0."""
    return (column(rows, Column.SQRT_RECIP, x) * x - x0) / column(rows, Column.SQRT_RECIPM1, x)


def advance(
    x: torch.Tensor,
    prediction: Prediction,
    rows: torch.Tensor,
    noise: torch.Tensor | None,
    *,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
) -> Step:
    """Compute the next step from a prediction and the coefficients ``rows``; :func:`guided_step` describes the arguments."""
    x0 = prediction.x0
    if score is not None:
        x0 = x0 + column(rows, Column.SCORE_TO_X0, x) * score
    out = column(rows, Column.X, x) * x + column(rows, Column.X0, x) * x0
    if score is not None:
        out = out + column(rows, Column.SCORE_TO_MEAN, x) * torch.exp(prediction.log_variance) * score
    if history is not None:
        for k in range(history.shape[0]):
            out = out + column(rows, Column.HISTORY + k, x) * history[k]
        latest = eps_from_x0(x, x0, rows) if remember_eps else x0
        history = torch.cat([latest[None], history[:-1]])
    if noise is not None:
        std = column(rows, Column.NOISE, x) + column(rows, Column.LEARNED_NOISE, x) * torch.exp(
            0.5 * prediction.log_variance
        )
        out = out + std * noise
    return Step(out, x0, history)


def _rows(table: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The row of the table for ``step``, or a row for each of several steps; all NaN for a step outside the table."""
    index = step.long().unsqueeze(-1)  # torch would read an index without dimensions on the host
    inside = (index >= 0) & (index < len(table))
    rows = table[torch.where(inside, index, 0)]
    return torch.where(inside.unsqueeze(-1), rows, torch.nan).squeeze(-2)


def run_unchecked(call: Call) -> Step:
    """The result of a call, without checks, so that a compiler can trace it; all NaN for a step outside the table."""
    x, noise = call.x, call.noise
    if call.seeds is not None:
        # Imported here, because the diffusion package imports this module.
        from glide_fast.diffusion.noise import philox_normal

        noise = philox_normal(call.seeds, call.step, tuple(x.shape[1:]), stream=call.stream)
    rows = _rows(call.table, call.step)
    mixed = mix_guidance(call.model_out, x.shape[1], call.guidance_scale)
    x0, log_variance = predict(x, mixed, rows)
    if call.known is not None and call.known_mask is not None:
        x0 = x0 * (1 - call.known_mask) + call.known * call.known_mask
    if call.clip:
        x0 = x0.clamp(-1, 1)
    result = advance(
        x,
        Prediction(x0, log_variance),
        rows,
        noise,
        score=call.score,
        history=call.history,
        remember_eps=call.remember_eps,
    )
    inputs, out = call.inputs, call.out
    if inputs is not None:
        for first in range(0, len(inputs), len(x)):
            inputs[first : first + len(x)].copy_(result.x)
    if out is None:
        return result
    out.x.copy_(result.x)
    out.x0.copy_(result.x0)
    if out.history is not None and result.history is not None:
        out.history.copy_(result.history)
    return out


def reference(*arguments: Any, **options: Any) -> Step:
    """The result for the arguments of :func:`glide_fast.ops.guided_step`, without checks."""
    return run_unchecked(Call(*arguments, **options))


def run(call: Call) -> Step:
    """The op for every call; refuses types and devices that torch cannot compute with, and steps outside the table.

    Steps are checked where they are in host memory.
    """
    _check_for_torch(call)
    if plain_tensor.why_not(TENSORS, call.tensors) is None:
        check_step(call)
        if call.x.device.type != "meta":
            check_memory(call)
    return run_unchecked(call)


def _check_for_torch(call: Call) -> None:
    """Refuse types and devices with which torch would raise in the middle of the computation, after writing some results.

    ``step`` and a guidance scale without dimensions may be in host memory, where torch can read single numbers.
    """
    x, scale = call.x, call.scale_in_memory
    for name, tensor in zip(TENSORS, call.tensors, strict=True):
        if tensor is None:
            continue
        if tensor is not call.step and tensor is not call.seeds:
            checks.floating(name, tensor)
        may_be_number = tensor is call.step or (tensor is scale and not tensor.dim())
        if not may_be_number or tensor.device.type != "cpu":
            checks.together((name,), (tensor,), x.device)
        overlap = checks.overlapping(name, tensor) if name.startswith("out") else None
        if overlap is not None:
            raise overlap
