"""What a call of an op costs at least: every operand read once, every result written once, every multiply-add as two FLOPs.

A kernel may take more of either. What caches keep from one op to the next is not taken off, so a step's sum of bytes is of ops
that each read from memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import Cost


def _held(*tensors: torch.Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def convolution(choice: Choice) -> Cost:
    """x, weight, bias and residual in, the result out; ``2 C kh kw`` FLOPs for each value of it, two thirds for Winograd's."""
    x, weight, bias, residual, stride, padding = choice.arguments
    kernel = tuple(weight.shape[2:]) if weight.dim() == 4 else (1, 1)
    height, width = (
        (x.shape[2 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)
    )
    values = x.shape[0] * weight.shape[0] * height * width
    moved = _held(x, weight, bias, residual) + values * x.element_size()
    flops = 2 * values * x.shape[1] * kernel[0] * kernel[1]
    return Cost(moved, flops * 2 // 3 if choice.backend.name == "winograd" else flops)


def text_attention(choice: Choice) -> Cost:
    """Packed keys and values in, a third of qkv's size out; two products of queries and all keys."""
    qkv, _, text = choice.arguments
    n, width, tokens = qkv.shape
    keys = tokens + (0 if text is None else text.shape[2])
    moved = _held(qkv, text) + _held(qkv) // 3
    return Cost(moved, 4 * n * (width // 3) * tokens * keys)


def masked_attention(choice: Choice) -> Cost:
    """q, k and v in, q's size out; two products, of half the keys where they are causal."""
    q, k, v, _ = choice.arguments
    products = 4 * q.numel() * k.shape[1]
    return Cost(_held(q, k, v, q), products // 2 if choice.options["causal"] else products)


def linear(rows: int, inputs: int, outputs: int, size: int, *, added: bool) -> Cost:
    """A product of ``[rows, inputs]`` and ``[inputs, outputs]``, elements of ``size`` bytes; ``added``: onto what is there."""
    values = rows * inputs + inputs * outputs + rows * outputs * (2 if added else 1)
    return Cost(values * size, 2 * rows * inputs * outputs)


_COSTS: dict[str, Callable[[Choice], Cost]] = {
    "convolution": convolution,
    "text_attention": text_attention,
    "masked_attention": masked_attention,
}


def cost(choice: Choice) -> Cost:
    """The cost of a call that :func:`glide_fast.ops.backends.listen` told of."""
    if choice.op.name in _COSTS:
        return _COSTS[choice.op.name](choice)
    found: Cost = importlib.import_module(f"glide_fast.ops.{choice.op.name}.cases").cost(choice.arguments[0])
    return found
