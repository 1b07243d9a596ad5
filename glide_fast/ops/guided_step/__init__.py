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

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.ops import checks, plain_tensor
from glide_fast.ops.backends import Op
from glide_fast.ops.guided_step import cpu, cuda, triton
from glide_fast.ops.guided_step.arguments import TENSORS, Call, Facts, Step

OP: Op[Facts] = Op("guided_step")
"""The backends of :func:`guided_step`. Their ``run`` takes a :class:`Call` and returns a :class:`Step`."""

HISTORY = 3
"""Predictions of earlier steps that a rule may use (PLMS uses three, DPM-Solver++(2M) one)."""


_STEP_TYPES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


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
    channels are the conditional half's. Without a scale the batch is not doubled and comes back as it is.
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
    noise: torch.Tensor | None,
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
    if noise is not None:
        std = column(rows, Column.NOISE, x) + column(rows, Column.LEARNED_NOISE, x) * torch.exp(
            0.5 * prediction.log_variance
        )
        out = out + std * noise
    return Step(out, x0, history)


def check_types(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments that are not what their names say, whatever their shapes."""
    out, scale = call.out, call.guidance_scale
    if out is not None and not isinstance(out, Step):
        raise invalid("out", out, "a Step of tensors, or None")
    checks.tensors(TENSORS, call.tensors, 4)
    if scale is not None and not isinstance(scale, torch.Tensor):
        number = checks.number("guidance_scale", scale, "a number, a tensor or None")
        if not torch.compiler.is_compiling():  # which has a symbol for it
            call.guidance_scale = number
    checks.integer("stream", call.stream, 0, 2**32 - 1)
    checks.flag("clip", call.clip)
    checks.flag("remember_eps", call.remember_eps)


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`guided_step`."""
    full, model_out, table, step = call.x.shape, call.model_out, call.table, call.step
    if len(full) < 3:
        raise invalid("x", tuple(full), "a tensor of shape [N, C, H, W]")
    checks.floating("x", call.x)
    count, channels, *positions = full
    if not channels:
        raise invalid("x", tuple(full), "a tensor with at least one channel")
    copies = 1 if call.guidance_scale is None else 2
    if model_out.shape != (copies * count, 2 * channels, *positions):
        accepted = f"shape {(copies * count, 2 * channels, *positions)}"
        raise invalid("model_out", tuple(model_out.shape), accepted)
    if table.dim() != 2 or table.shape[1] != Column.COUNT or not table.shape[0]:
        raise invalid("table", tuple(table.shape), f"shape [steps, {Column.COUNT}], with a step or more")
    if step.dim() > 1 or (step.dim() == 1 and step.shape[0] != count) or step.dtype not in _STEP_TYPES:
        raise invalid("step", f"{step.dtype} {tuple(step.shape)}", f"an integer tensor [] or [{count}]")
    seeds, scale = call.seeds, call.scale_in_memory
    if seeds is not None:
        if call.noise is not None:
            raise invalid("noise, seeds", "both", "one of them, or neither for a step without noise")
        if seeds.shape != (count,) or seeds.dtype != torch.int64:
            raise invalid("seeds", f"{seeds.dtype} {tuple(seeds.shape)}", f"an int64 tensor [{count}]")
    if scale is not None and scale.numel() not in (1, count):
        raise invalid("guidance_scale", tuple(scale.shape), f"a number, or 1 or {count} elements")
    known, mask = call.known, call.known_mask
    if (known is None) != (mask is None):
        raise invalid("known, known_mask", (type(known).__name__, type(mask).__name__), "both or neither")
    if mask is not None and mask.shape != (count, 1, *positions):
        raise invalid("known_mask", tuple(mask.shape), f"shape {(count, 1, *positions)}")
    history, inputs, out = call.history, call.inputs, call.out
    if history is not None and history.shape != (HISTORY, *full):
        raise invalid("history", tuple(history.shape), f"shape {(HISTORY, *full)}")
    for name, tensor in (("noise", call.noise), ("known", known), ("score", call.score)):
        if tensor is not None and tensor.shape != full:
            raise invalid(name, tuple(tensor.shape), f"the shape of x, {tuple(full)}")
    if inputs is not None and (inputs.shape[1:] != full[1:] or not count or inputs.shape[0] % count):
        raise invalid("inputs", tuple(inputs.shape), f"shape [k {count}, {', '.join(map(str, full[1:]))}]")
    if out is not None:
        shapes = (out.x.shape, out.x0.shape, None if out.history is None else out.history.shape)
        if shapes != (full, full, None if history is None else history.shape):
            raise invalid("out", shapes, "the shapes of x, x and history")
        if out.x is out.x0:
            raise invalid("out", "the same tensor for x and x0", "a tensor for each")
    overlap = None
    if inputs is not None and not inputs.is_contiguous():
        overlap = checks.overlapping("inputs", inputs)
    if overlap is not None:
        raise overlap


def check_step(call: Call) -> None:
    """Raise ``InvalidInputError`` for a step outside the table, where the host can tell without waiting for a device."""
    if call.step.device.type != "cpu":
        return
    values = call.step.numpy()
    if ((values < 0) | (values >= len(call.table))).any():
        raise _outside(call)


def _outside(call: Call) -> InvalidInputError:
    return invalid("step", call.step.tolist(), f"rows of the table, from 0 to {len(call.table) - 1}")


def _rows(table: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The step's row of the table, or a row for each; all NaN for a step outside."""
    index = step.long().unsqueeze(-1)  # without a dimension it would be read on the host
    inside = (index >= 0) & (index < len(table))
    rows = table[torch.where(inside, index, 0)]
    return torch.where(inside.unsqueeze(-1), rows, torch.nan).squeeze(-2)


def reference(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    seeds: torch.Tensor | None = None,
    stream: int = 0,
    guidance_scale: float | torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
    clip: bool = True,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
    inputs: torch.Tensor | None = None,
    out: Step | None = None,
) -> Step:
    """The maths in plain torch; the ground truth for every backend. See :func:`guided_step`."""
    if seeds is not None:
        # The diffusion package imports this module.
        from glide_fast.diffusion.noise import philox_normal

        noise = philox_normal(seeds, step, tuple(x.shape[1:]), stream=stream)
    rows = _rows(table, step)
    mixed = mix_guidance(model_out, x.shape[1], guidance_scale)
    x0, log_variance = predict(x, mixed, rows)
    if known is not None and known_mask is not None:
        x0 = x0 * (1 - known_mask) + known * known_mask
    if clip:
        x0 = x0.clamp(-1, 1)
    result = advance(
        x, Prediction(x0, log_variance), rows, noise, score=score, history=history, remember_eps=remember_eps
    )
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


@torch.library.custom_op(
    "glide_fast::guided_step", mutates_args=("next_x", "x0", "next_history", "inputs"), device_types=None
)
def _guided_step(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor | None,
    seeds: torch.Tensor | None,
    stream: int,
    guidance_scale: float | None,
    guidance: torch.Tensor | None,
    known: torch.Tensor | None,
    known_mask: torch.Tensor | None,
    clip: bool,
    score: torch.Tensor | None,
    history: torch.Tensor | None,
    remember_eps: bool,
    next_x: torch.Tensor,
    x0: torch.Tensor,
    next_history: torch.Tensor | None,
    inputs: torch.Tensor | None,
) -> None:
    """What torch.compile sees: the choice of a backend waits until the tensors are real."""
    scale = guidance_scale if guidance is None else guidance
    call = Call(
        *(x, model_out, table, step, noise, seeds, stream, scale, known, known_mask, clip),
        *(score, history, remember_eps, inputs, Step(next_x, x0, next_history)),
    )
    _run_on(call.facts(), call)


@_guided_step.register_fake
def _(*arguments: object) -> None:
    """All results go into tensors that the caller made."""


def guided_step(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    seeds: torch.Tensor | None = None,
    stream: int = 0,
    guidance_scale: float | torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
    clip: bool = True,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    remember_eps: bool = False,
    inputs: torch.Tensor | None = None,
    out: Step | None = None,
) -> Step:
    """Advance the diffusion state by one step of any sampler.

    Args:
        x: ``[N, C, H, W]`` fp32, the state at this step.
        model_out: ``[N, 2 C, H, W]``, or ``[2 N, 2 C, H, W]`` with a guidance scale; eps first, then the variance's v.
            fp32, bf16 or fp16, contiguous or channels-last; used in fp32.
        table: ``[steps, Column.COUNT]`` fp32, from :mod:`glide_fast.diffusion.rules`.
        step: int64 tensor, ``[]`` or ``[N]``, the row to use; read on the device, so a captured loop may change it. A step
            outside the table is refused before anything is written where it lies in host memory. On a device nobody can refuse
            it without waiting: there, and under transforms such as torch.vmap, all results of its image are NaN (x, x0, the
            latest of the history, inputs).
        noise: ``[N, C, H, W]`` fp32, standard normal; a rule without noise multiplies it by zero.
        seeds, stream: instead of ``noise``, int64 ``[N]`` and the number of a stream: the noise is that of
            :func:`glide_fast.diffusion.noise.philox_normal` for these at this ``step``. With neither, none is added.
        guidance_scale: classifier-free guidance, a number or an fp32 tensor of 1 or N elements; None for a batch that is
            not doubled.
        known, known_mask: inpainting; ``[N, C, H, W]`` in [-1, 1] and ``[N, 1, H, W]``, 1 where the image is kept.
        clip: clamp x0 to [-1, 1] (after the known region, before anything uses it).
        score: ``[N, C, H, W]``, scaled gradient of a log probability with respect to ``x``.
        history: ``[HISTORY, N, C, H, W]`` predictions of earlier steps for multistep rules, latest first.
        remember_eps: the history holds eps (PLMS) instead of x0 (DPM-Solver++).
        inputs: ``[k N, C, H, W]``, fp32, bf16 or fp16, contiguous or channels-last: is filled with k copies of the next
            state, for the network's next call.
        out: where to write the result; may hold ``x`` and ``history`` themselves. None for new tensors.

    Returns:
        :class:`Step`; ``x0`` is the clamped prediction after the score was applied.

    All arithmetic is fp32 (fp64 for fp64 states). Backends agree to 1e-5, and so do batches of any size: kernels round each
    product and sum as the reference does, since x0 is the small difference of large numbers at the noisiest steps. What is not
    finite goes where the formulas say: NaN is never clamped, and an infinite v is no variance but NaN.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(
        *(x, model_out, table, step, noise, seeds, stream, guidance_scale, known, known_mask, clip),
        *(score, history, remember_eps, inputs, out),
    )
    check_types(call)
    check_arguments(call)
    return _traced(call) if torch.compiler.is_compiling() else _run(call)


def _run(call: Call) -> Step:
    facts = call.facts()
    if facts.unreadable is not None and plain_tensor.as_one_node(call.tensors):
        return _traced(call)
    return _run_on(facts, call)


def _run_on(facts: Facts, call: Call) -> Step:
    """Choose a backend and run it."""
    backend = OP.choose(facts, call)
    if backend.name == "reference":  # the others have looked at types, layouts and devices
        _check_for_torch(call)
    if backend.name != "cpu" and facts.unreadable is None:  # "cpu" looks itself
        check_step(call)
    try:
        result: Step = backend.run(call)
    except IndexError:
        raise _outside(call) from None
    return result


def _check_for_torch(call: Call) -> None:
    """Refuse what torch would stop at half-way.

    The step and a guidance scale of no dimensions may lie on the host; torch reads such numbers there.
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


def _traced(call: Call) -> Step:
    """For ``torch.compile``: one opaque op, or what autograd can see through."""
    if call.gradients:
        return _run_reference(call)
    x, scale = call.x, call.guidance_scale
    out = call.out or Step.like(x.to(torch.promote_types(x.dtype, torch.float32)), call.history)
    _guided_step(
        *(x, call.model_out, call.table, call.step, call.noise, call.seeds, call.stream),
        *((None, scale) if isinstance(scale, torch.Tensor) else (scale, None)),
        *(call.known, call.known_mask, call.clip, call.score, call.history, call.remember_eps),
        *out,
        call.inputs,
    )
    return out


def _run_reference(call: Call) -> Step:
    return reference(
        call.x,
        call.model_out,
        call.table,
        call.step,
        call.noise,
        seeds=call.seeds,
        stream=call.stream,
        guidance_scale=call.guidance_scale,
        known=call.known,
        known_mask=call.known_mask,
        clip=call.clip,
        score=call.score,
        history=call.history,
        remember_eps=call.remember_eps,
        inputs=call.inputs,
        out=call.out,
    )


OP.register("cpu", cpu.run, cpu.supports, plain_only=True)
OP.register("cuda", cuda.run, cuda.supports, plain_only=True)
OP.register("triton", triton.run, triton.supports, plain_only=True)
OP.register("reference", _run_reference)
