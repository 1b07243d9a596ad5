"""Attention over the image's own tokens plus the text's, on GLIDE's packed head-major layout.

Replaces the official chain of reshapes, splits, two concatenations, two scalings, an fp32 softmax and a second product
(``QKVAttention`` in the released ``unet.py``; Nichol et al. 2021, section 2.3 for why the text joins every attention layer).
"""

from __future__ import annotations

import torch

from glide_fast.ops.backends import Op
from glide_fast.ops.text_attention import cpu, reference, sdpa, traced, triton, xformers
from glide_fast.ops.text_attention.arguments import Call, Facts, check_arguments

OP: Op[Facts] = Op("text_attention", operator=traced.NODE)
"""The backends of :func:`text_attention`. Their ``run`` takes a :class:`Call` and returns the result."""


def text_attention(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """Multi-head attention whose keys and values are the text's followed by the queries' own.

    Args:
        qkv: ``[N, heads * 3 * head_size, T]``; along dimension 1 the order is head-major: for each head its q, k, v.
            Any strides: the official layout and a transposed ``[N, T, heads * 3 * head_size]`` are both read in place by
            the Triton kernel, the latter by the C++ one. fp16, bf16, fp32 or fp64.
        heads: number of heads.
        encoder_kv: ``[N, heads * 2 * head_size, S]`` or None; for each head its k, v. They come before the image's and
            are never masked: padding positions of the prompt are attended, as in the official model.

    Returns:
        ``[N, heads * head_size, T]`` in the type of ``qkv``, in any strides. Softmax is taken in fp32 (fp64 stays fp64).

    Raises:
        InvalidInputError: for shapes outside this contract.
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """
    call = Call(qkv, heads, encoder_kv)
    check_arguments(call)
    result: torch.Tensor = traced.NODE.compiled(call) if torch.compiler.is_compiling() else OP.run(call)
    return result


OP.register("triton", triton.run, triton.supports, plain_only=True, plans=triton.plans)
OP.register("cpu", cpu.run, cpu.supports, cpu.worth, plain_only=True, plans=cpu.plans)
OP.register("sdpa", sdpa.run, sdpa.supports, sdpa.worth, plain_only=True)
OP.register("xformers", xformers.run, xformers.supports, plain_only=True)
OP.register("reference", reference.run)
