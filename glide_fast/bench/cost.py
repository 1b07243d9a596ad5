"""What a call of an op costs at least: every operand read once, every result written once, every multiply-add as two FLOPs.

A kernel may take more of either. What caches keep from one op to the next is not taken off, so a step's sum of bytes is of ops
that each read from memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import Cost, held
from glide_fast.ops.group_norm_act.arguments import Call as NormCall
from glide_fast.ops.guided_step.arguments import Call as StepCall
from glide_fast.ops.masked_attention import cases as masked_attention_cases
from glide_fast.ops.text_attention import cases as text_attention_cases

POINTWISE_NORM = 20
"""FLOPs of group_norm_act for each value: two for mean, three for variance, the rest for affine, FiLM and SiLU."""
POINTWISE_STEP, PHILOX = 40, 60
"""FLOPs of guided_step for each value of the state, and of the noise drawn in it."""


def group_norm_act(choice: Choice) -> Cost:
    """x, skip, residual and parameters in; y and, where it is kept, the sum out."""
    call: NormCall = choice.arguments[0]
    values = call.x.numel() + (0 if call.x2 is None else call.x2.numel())
    written = values
    if call.resample is not None:
        written = values * 4 if call.resample == "nearest_x2" else values // 4
    size = torch.empty(0, dtype=call.out_dtype or call.x.dtype).element_size()
    total = held(call.x, call.x2, call.residual, call.x_bias, call.weight, call.bias, call.scale, call.shift)
    total += written * size + (held(call.x) if call.keep_sum and call.adds else 0)
    return Cost(total, POINTWISE_NORM * values)


def convolution(choice: Choice) -> Cost:
    """x, weight, bias and residual in, the result out; ``2 C kh kw`` FLOPs for each value of it, two thirds for Winograd's."""
    x, weight, bias, residual, stride, padding = choice.arguments
    kernel = tuple(weight.shape[2:]) if weight.dim() == 4 else (1, 1)
    height, width = (
        (x.shape[2 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)
    )
    values = x.shape[0] * weight.shape[0] * height * width
    moved = held(x, weight, bias, residual) + values * x.element_size()
    flops = 2 * values * x.shape[1] * kernel[0] * kernel[1]
    return Cost(moved, flops * 2 // 3 if choice.backend.name == "winograd" else flops)


def text_attention(choice: Choice) -> Cost:
    """Packed keys and values in, a third of qkv's size out; two products of queries and all keys."""
    return text_attention_cases.cost(choice.arguments[0])


def masked_attention(choice: Choice) -> Cost:
    """q, k and v in, q's size out; two products, of half the keys where they are causal."""
    return masked_attention_cases.cost(choice.arguments[0])


def resample(choice: Choice) -> Cost:
    """x, bias and residual in, four times or a quarter of x out."""
    x, mode = choice.arguments
    written = held(x) * 4 if mode == "nearest_x2" else held(x) // 4
    added = sum(tensor is not None for tensor in choice.options.values())
    return Cost(held(x, *choice.options.values()) + written, (added + (mode != "nearest_x2")) * x.numel())


def guided_step(choice: Choice) -> Cost:
    """State and prediction in; state, predicted picture and the network's next input out."""
    call: StepCall = choice.arguments[0]
    x = call.x
    moved = held(x, call.model_out, call.noise, call.known, call.known_mask, call.score)
    moved += 2 * held(x) + 2 * held(call.history) + held(call.inputs)
    flops = POINTWISE_STEP + (PHILOX if call.seeds is not None else 0)
    return Cost(moved, flops * x.numel())


def linear(rows: int, inputs: int, outputs: int, size: int, *, added: bool) -> Cost:
    """A product of ``[rows, inputs]`` and ``[inputs, outputs]``, elements of ``size`` bytes; ``added``: onto what is there."""
    values = rows * inputs + inputs * outputs + rows * outputs * (2 if added else 1)
    return Cost(values * size, 2 * rows * inputs * outputs)


_COSTS: dict[str, Callable[[Choice], Cost]] = {
    "group_norm_act": group_norm_act,
    "convolution": convolution,
    "text_attention": text_attention,
    "masked_attention": masked_attention,
    "resample": resample,
    "guided_step": guided_step,
}


def cost(choice: Choice) -> Cost:
    """The cost of a call that :func:`glide_fast.ops.backends.listen` told of."""
    return _COSTS[choice.op.name](choice)
