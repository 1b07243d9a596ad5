"""What a call costs at least: the op's own ``cases.cost``, and products that are no op's.

What caches keep from one op to the next is not taken off, so a step's sum of bytes is of ops that each read from memory.
"""

from __future__ import annotations

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import Cost, cases_of


def cost(choice: Choice) -> Cost:
    """Of a call that :func:`glide_fast.ops.backends.listen` reported; Winograd's algorithm saves a third of the products."""
    found: Cost = cases_of(choice.op.name).cost(choice.call)
    return found._replace(flops=found.flops * 2 // 3) if choice.backend.name == "winograd" else found


def linear(rows: int, inputs: int, outputs: int, size: int, *, added: bool) -> Cost:
    """A product of ``[rows, inputs]`` and ``[inputs, outputs]``, elements of ``size`` bytes; ``added``: onto what is there."""
    values = rows * inputs + inputs * outputs + rows * outputs * (2 if added else 1)
    return Cost(values * size, 2 * rows * inputs * outputs)
