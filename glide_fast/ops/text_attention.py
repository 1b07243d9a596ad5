"""Attention over the image's own tokens plus the text's, on GLIDE's packed head-major layout.

Replaces the official chain of reshapes, splits, two concatenations, two scalings, an fp32 softmax and a second product
(``QKVAttention`` in the released ``unet.py``; Nichol et al. 2021, section 2.3 for why the text joins every attention layer).
"""

from __future__ import annotations

import math

import torch

from glide_fast.errors import invalid


def check_arguments(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None) -> int:
    """Raise ``InvalidInputError`` for shapes outside the contract; return the head size."""
    if qkv.dim() != 3:
        raise invalid("qkv", tuple(qkv.shape), "a tensor of shape [N, heads * 3 * head_size, T]")
    if heads < 1 or qkv.shape[1] % (3 * heads):
        raise invalid("heads", heads, f"a divisor of qkv.shape[1] / 3 = {qkv.shape[1] / 3:g}")
    head_size = qkv.shape[1] // (3 * heads)
    if encoder_kv is not None:
        want = (qkv.shape[0], heads * 2 * head_size)
        if encoder_kv.dim() != 3 or tuple(encoder_kv.shape[:2]) != want:
            raise invalid(
                "encoder_kv", tuple(encoder_kv.shape), f"a tensor of shape [{want[0]}, {want[1]}, S]"
            )
    return head_size


def reference(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """The maths in plain torch; the ground truth for every backend. See :func:`text_attention`."""
    n, width, tokens = qkv.shape
    head_size = width // (3 * heads)
    q, k, v = qkv.reshape(n * heads, 3 * head_size, tokens).split(head_size, dim=1)
    if encoder_kv is not None:
        text_k, text_v = encoder_kv.reshape(n * heads, 2 * head_size, -1).split(head_size, dim=1)
        k = torch.cat([text_k, k], dim=-1)
        v = torch.cat([text_v, v], dim=-1)
    # Scaling both factors by head_size ** -1/4 keeps fp16 logits in range; scaling the product would overflow first.
    scale = 1.0 / math.sqrt(math.sqrt(head_size))
    logits = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    probabilities = torch.softmax(logits.float(), dim=-1).to(qkv.dtype)
    return torch.einsum("bts,bcs->bct", probabilities, v).reshape(n, heads * head_size, tokens)


def text_attention(qkv: torch.Tensor, heads: int, encoder_kv: torch.Tensor | None = None) -> torch.Tensor:
    """Multi-head attention whose keys and values are the text's followed by the queries' own.

    Args:
        qkv: ``[N, heads * 3 * head_size, T]``; along dimension 1 the order is head-major: for each head its q, k, v.
            Any strides; fp16, bf16, fp32 or fp64.
        heads: number of heads.
        encoder_kv: ``[N, heads * 2 * head_size, S]`` or None; for each head its k, v. They come before the image's and
            are never masked: padding positions of the prompt are attended, as in the official model.

    Returns:
        ``[N, heads * head_size, T]`` in the type of ``qkv``. Softmax is taken in fp32 (fp64 stays fp64).

    Raises:
        InvalidInputError: for shapes outside this contract.
    """
    check_arguments(qkv, heads, encoder_kv)
    return reference(qkv, heads, encoder_kv)
