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

import torch

from glide_fast.ops.backends import Op
from glide_fast.ops.guided_step import cpu, cuda, reference, traced, triton
from glide_fast.ops.guided_step.arguments import (
    HISTORY,
    Call,
    Column,
    Facts,
    Step,
    check_arguments,
    check_types,
)

__all__ = ["HISTORY", "OP", "Column", "Step", "guided_step"]

OP: Op[Facts] = Op("guided_step", operator=traced.run_operator)
"""The backends of :func:`guided_step`. Their ``run`` takes a :class:`Call` and returns a :class:`Step`."""


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
            outside the table raises before anything is written, if ``step`` is in host memory. On a device that check would
            have to wait: there, and under transforms such as torch.vmap, all results of the image become NaN instead (x, x0,
            the latest prediction in the history, inputs).
        noise: ``[N, C, H, W]`` fp32, standard normal; a rule without noise multiplies it by zero.
        seeds, stream: instead of ``noise``, int64 ``[N]`` and the number of a stream: the noise is
            :func:`glide_fast.diffusion.noise.philox_normal` of ``seeds``, ``step`` and ``stream``. With neither ``noise`` nor
            ``seeds`` no noise is added.
        guidance_scale: classifier-free guidance, a number or an fp32 tensor of 1 or N elements; None for a batch that is
            not doubled.
        known, known_mask: inpainting; ``[N, C, H, W]`` in [-1, 1] and ``[N, 1, H, W]``, 1 where the image is kept.
        clip: clamp x0 to [-1, 1] (after the known region, before anything uses it).
        score: ``[N, C, H, W]``, scaled gradient of a log probability with respect to ``x``.
        history: ``[HISTORY, N, C, H, W]`` predictions of earlier steps for multistep rules, latest first.
        remember_eps: the history holds eps (PLMS) instead of x0 (DPM-Solver++).
        inputs: ``[k N, C, H, W]``, fp32, bf16 or fp16, contiguous or channels-last: is filled with k copies of the next
            state, for the network's next call.
        out: tensors to write the result to; None for new ones. ``out.x`` or ``out.x0`` may be ``x`` itself, and ``out.history``
            may be ``history``. Apart from that no two results (``inputs`` too) may share memory, with each other or with a
            picture that is read.

    Returns:
        :class:`Step`; ``x0`` is the clamped prediction after the score was applied.

    All arithmetic is fp32 (fp64 for fp64 states). Backends agree to 1e-5, and so do batches of any size: kernels round each
    product and sum as the reference does, since x0 is the small difference of large numbers at the noisiest steps. Values that
    are not finite propagate as the formulas say: NaN is never clamped, and an infinite v gives NaN.

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
    result: Step = traced.run_operator(call) if torch.compiler.is_compiling() else OP.run(call)
    return result


OP.register("cpu", cpu.run, cpu.supports, plain_only=True)
OP.register("cuda", cuda.run, cuda.supports, plain_only=True)
OP.register("triton", triton.run, triton.supports, plain_only=True, plans=triton.plans)
OP.register("reference", reference.run)
