"""A call of an op in words, for people: what its tensors' sizes are, and what is fused into it."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import fused, sizes


def first_tensor(choice: Choice) -> torch.Tensor:
    """The call's first tensor, whose type and device count as the call's."""
    first = choice.arguments[0]
    tensor: torch.Tensor = first if isinstance(first, torch.Tensor) else first.tensors[0]
    return tensor


def described(choice: Choice) -> str:
    """Sizes and what is fused, such as ``2x192x64x64 + FiLM, SiLU``."""
    if choice.op.name in _DESCRIBE:
        return _DESCRIBE[choice.op.name](choice)
    described: str = importlib.import_module(f"glide_fast.ops.{choice.op.name}.cases").describe(
        choice.arguments[0]
    )
    return described


def _convolution(choice: Choice) -> str:
    x, weight, bias, residual, stride, _ = choice.arguments
    kernel = "x".join(map(str, weight.shape[2:])) if weight.dim() == 4 else "1x1"
    by = f" /{stride[0]}" if max(stride) > 1 else ""
    return f"{sizes(x)} to {weight.shape[0]}, {kernel}{by}{fused(bias=bias, residual=residual)}"


_DESCRIBE:
        return _DESCRIBE[choice.op.name](choice)
    described: str = importlib.import_module(f"glide_fast.ops.{choice.op.name}.cases").describe(
        choice.arguments[0]
    )
    return described


def _convolution(choice: Choice) -> str:
    x, weight, bias, residual, stride, _ = choice.arguments
    kernel = "x".join(map(str, weight.shape[2:])) if weight.dim() == 4 else "1x1"
    by = f" /{stride[0]}" if max(stride) > 1 else ""
    return f"{sizes(x)} to {weight.shape[0]}, {kernel}{by}{fused(bias=bias, residual=residual)}"


def _text_attention(choice: Choice) -> str:
    qkv, heads, text = choice.arguments
    keys = f"{qkv.shape[2]}" if text is None else f"{qkv.shape[2]} + {text.shape[2]} of text"
    return (
        f"{qkv.shape[0]}x{heads} heads of {qkv.shape[1] // (3 * heads)}, {qkv.shape[2]} queries, {keys} keys"
    )


def _masked_attention(choice: Choice) -> str:
    q, k, _, heads = choice.arguments
    causal = ", causal" if choice.options["causal"] else ""
    return f"{sizes(q)}, {heads} heads, {k.shape[1]} keys{causal}"


_DESCRIBE: dict[str, Callable[[Choice], str]] = {
    "convolution": _convolution,
}
"""Ops that have no cases.py yet."""
