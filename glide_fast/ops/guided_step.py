"""One step of the reverse diffusion, from the network's output to the next state.

Replaces some 25 pointwise launches of the official loop: guidance mix, learned-range variance, the prediction of x0, the known
region of inpainting, clamping, and the update of DDPM, DDIM or a multistep solver. Every sampler of glide_fast is a table of
coefficients for the same arithmetic (see :mod:`glide_fast.diffusion.rules`), so one kernel serves them all:

    x0   = sqrt(1 / abar_t) x - sqrt(1 / abar_t - 1) eps                      Ho et al. 2020, eq. 15
    x'   = c_x x + c_x0 x0 + sum_k c_k history_k + std noise
    std  = c_noise + c_learned exp(log_variance / 2)
    log_variance = frac log(beta) + (1 - frac) log(posterior variance), frac = (v + 1) / 2     Nichol & Dhariwal 2021, eq. 15
"""

from __future__ import annotations

from typing import NamedTuple

import torch

HISTORY = 3
"""Predictions of earlier steps that a rule may use (PLMS uses three, DPM-Solver++(2M) one)."""


class Column:
    """Columns of a rule's coefficient table, ``[steps, Column.COUNT]``."""

    SQRT_RECIP = 0  # sqrt(1 / abar)
    SQRT_RECIPM1 = 1  # sqrt(1 / abar - 1)
    MIN_LOG = 2  # log of the clipped posterior variance
    MAX_LOG = 3  # log(beta)
    X = 4
    X0 = 5
    HISTORY = 6  # 6, 7, 8: the latest remembered prediction first
    NOISE = 9
    LEARNED_NOISE = 10
    SCORE_TO_X0 = 11  # a classifier's gradient enters x0 (Song et al. 2020) ...
    SCORE_TO_MEAN = 12  # ... or the mean, times the variance (Dhariwal & Nichol 2021, algorithm 1)
    COUNT = 13


class Prediction(NamedTuple):
    """What the network's output says at one step, all fp32 ``[N, C, H, W]``."""

    x0: torch.Tensor
    log_variance: torch.Tensor


class Step(NamedTuple):
    """Result of a step: the next state, the x0 it rests on, and the history for the next step."""

    x: torch.Tensor
    x0: torch.Tensor
    history: torch.Tensor | None


def column(rows: torch.Tensor, index: int, like: torch.Tensor) -> torch.Tensor:
    """One column of ``rows`` (``[COUNT]`` or ``[N, COUNT]``), shaped to broadcast against ``like`` ``[N, ...]``."""
    # fp16 states are promoted, as the fp32 tables of the official loop do; fp64 ones stay fp64.
    values = rows[..., index].to(torch.promote_types(like.dtype, torch.float32))
    return values if values.dim() == 0 else values.view(-1, *([1] * (like.dim() - 1)))


def mix_guidance(
    model_out: torch.Tensor, channels: int, guidance_scale: float | torch.Tensor | None
) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2021) on a doubled batch, conditional half first.

    ``model_out`` is ``[2 N, 2 C, H, W]`` and the result ``[N, 2 C, H, W]``: eps is mixed, the variance channels are the
    conditional half's. Without a scale the batch is not doubled and comes back as it is.
    """
    if guidance_scale is None:
        return model_out
    conditional, unconditional = model_out.chunk(2, dim=0)
    eps_c, eps_u = conditional[:, :channels], unconditional[:, :channels]
    eps = eps_u + guidance_scale * (eps_c - eps_u)
    return torch.cat([eps, conditional[:, channels:]], dim=1)


def predict(x: torch.Tensor, model_out: torch.Tensor, rows: torch.Tensor) -> Prediction:
    """Split ``model_out`` ``[N, 2 C, H, W]`` into x0 and the learned-range log variance.

    ``rows`` is one row of a coefficient table, or one row a sample (``[N, Column.COUNT]``).
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
    noise: torch.Tensor,
    *,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
) -> Step:
    """Apply a rule's row to a prediction; see the module's formulas and :func:`guided_step` for the arguments."""
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
    std = column(rows, Column.NOISE, x) + column(rows, Column.LEARNED_NOISE, x) * torch.exp(
        0.5 * prediction.log_variance
    )
    return Step(out + std * noise, x0, history)


def reference(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor,
    *,
    guidance_scale: float | torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
    clip: bool = True,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
) -> Step:
    """The maths in plain torch; the ground truth for every backend. See :func:`guided_step`."""
    rows = table[step]
    mixed = mix_guidance(model_out, x.shape[1], guidance_scale)
    x0, log_variance = predict(x, mixed, rows)
    if known is not None and known_mask is not None:
        x0 = x0 * (1 - known_mask) + known * known_mask
    if clip:
        x0 = x0.clamp(-1, 1)
    return advance(
        x, Prediction(x0, log_variance), rows, noise, score=score, history=history, remember_eps=remember_eps
    )


def guided_step(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor,
    *,
    guidance_scale: float | torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
    clip: bool = True,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
) -> Step:
    """Advance the diffusion state by one step of any sampler.

    Args:
        x: ``[N, C, H, W]`` fp32, the state at this step.
        model_out: ``[N, 2 C, H, W]``, or ``[2 N, 2 C, H, W]`` with a guidance scale; eps first, then the variance's v.
        table: ``[steps, Column.COUNT]`` fp32, from :mod:`glide_fast.diffusion.rules`.
        step: integer tensor, ``[]`` or ``[N]``, the row to use; read on the device, so a captured loop may change it.
        noise: ``[N, C, H, W]`` fp32, standard normal; a rule without noise multiplies it by zero.
        guidance_scale: classifier-free guidance; None for a batch that is not doubled.
        known, known_mask: inpainting; ``[N, C, H, W]`` in [-1, 1] and ``[N, 1, H, W]``, 1 where the image is kept.
        clip: clamp x0 to [-1, 1] (after the known region, before anything uses it).
        score: ``[N, C, H, W]``, scaled gradient of a log probability with respect to ``x``.
        history: ``[HISTORY, N, C, H, W]`` predictions of earlier steps for multistep rules, latest first.
        remember_eps: the history holds eps (PLMS) instead of x0 (DPM-Solver++).

    Returns:
        :class:`Step`; ``x0`` is the clamped prediction after the score was applied.
    """
    return reference(
        x,
        model_out,
        table,
        step,
        noise,
        guidance_scale=guidance_scale,
        known=known,
        known_mask=known_mask,
        clip=clip,
        score=score,
        history=history,
        remember_eps=remember_eps,
    )
