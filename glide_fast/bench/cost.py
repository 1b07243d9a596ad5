"""What a call costs at least: the op's own ``cases.cost``, and products that are no op's.

What caches keep from one op to the next is not taken off, so a step's sum of bytes is of ops that each read from memory.
"""

from __future__ import annotations

import importlib

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import Cost, held


def cost(choice: Choice) -> Cost:
    """The cost of a call that :func:`glide_fast.ops.backends.listen` reported; Winograd's algorithm has a third fewer products."""
    if choice.op.name == "convolution" and isinstance(choice.arguments[0], __import__("torch").Tensor):
        found = _convolution(choice)
    else:
        found = importlib.import_module(f"glide_fast.ops.{choice.op.name}.cases").cost(choice.arguments[0])
    return found._replace(flops=found.flops * 2 // 3) if choice.backend.name == "winograd" else found


def _convolution(choice: Choice) -> Cost:
    x, weight, bias, residual, stride, padding = choice.arguments
    kernel = tuple(weight.shape[2:]) if weight.dim() == 4 else (1, 1)
    height, width = (
        (x.shape[2 + axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)
    )
    values = x.shape[0] * weight.shape[0] * height * width
    moved = held(x, weight, bias, residual) + values * x.element_size()
    return Cost(moved, 2 * values * x.shape[1] * kernel[0] * kernel[1])


def linear(rows: int, inputs: int, outputs: int, size: int, *, added: bool) -> Cost:
    """A product of ``[rows, inputs]`` and ``[inputs, outputs]``, elements of ``size`` bytes; ``added``: onto what is there."""
    values = rows * inputs + inputs * outputs + rows * outputs * (2 if added else 1)
    return Cost(values * size, 2 * rows * inputs * outputs)
