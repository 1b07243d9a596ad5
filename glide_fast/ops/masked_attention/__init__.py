"""Attention under a mask, causal or by length: the noise-aware CLIP's text and image encoders (Radford et al. 2021, section 2.4).

Replaces the official chain of padding to a block multiple, permutes, two scalings, a dense additive mask and a softmax.
"""

from __future__ import annotations

import torch

from glide_fast.ops import attention
from glide_fast.ops.backends import Op
from glide_fast.ops.masked_attention import cpu, reference, sdpa, traced, triton, xformers
from glide_fast.ops.masked_attention.arguments import Call, Facts, check_arguments

OP: Op[Facts] = Op("masked_attention", operator=traced.NODE)
"""The backends of :func:`masked_attention`. Their ``run`` takes a :class:`Call` and returns the result."""


def masked_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    *,
    causal: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multi-head scaled dot-product attention where each query sees a prefix of the keys.

    Args:
        q: ``[N, T, heads * head_size]``, head after head along the last dimension; any strides, read in place by the kernel;
            fp16, bf16, fp32 or fp64.
        k, v: ``[N, S, heads * head_size]`` of the same type, on the same device.
        heads: number of heads.
        causal: query i sees keys 0 to i; T must be S.
        lengths: ``[N]`` integers from 1 to S on the same device: how many keys each sample has. Keys behind them are padding and
            are not seen. None: all S. The values are not checked, since that would wait for a device: S or more means all keys,
            and for 0 or less the sample's result is undefined.

    Returns:
        ``[N, T, heads * head_size]`` in the type of ``v``, in any strides. Softmax is taken in fp32 (fp64 stays fp64). Queries
        behind a sample's length have results too, without meaning.

    Raises:
        InvalidInputError: for arguments outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(q, k, v, heads, causal, lengths)
    check_arguments(call)
    result: torch.Tensor = traced.NODE.compiled(call) if torch.compiler.is_compiling() else OP.run(call)
    return result


OP.register("triton", triton.run, triton.supports, plain_only=True, plans=triton.plans)
OP.register("cpu", cpu.run, cpu.supports, attention.cpu_worth, plain_only=True, plans=cpu.plans)
OP.register("sdpa", sdpa.run, sdpa.supports, sdpa.worth, plain_only=True)
OP.register("xformers", xformers.run, xformers.supports, plain_only=True)
OP.register("reference", reference.run)
