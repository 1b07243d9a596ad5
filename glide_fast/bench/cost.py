"""The least cost of a call, from ``cost`` in the op's ``cases.py``, and of matrix products that are not an op.

The sum over a step assumes that every op reads its operands from memory, although caches keep some from one op to the next.
"""

from __future__ import annotations

from glide_fast.ops.backends import Choice
from glide_fast.ops.case import Cost, cases_of


def cost(choice: Choice) -> Cost:
    """The least cost of a call that :func:`glide_fast.ops.backends.listen` reported.

    Winograd's algorithm needs a third fewer products.
    """
    found: Cost = cases_of(choice.op.name).cost(choice.call)
    return found._replace(flops=found.flops * 2 // 3) if choice.backend.name == "winograd" else found


def linear(rows: int, inputs: int, outputs: int, size: int, *, added: bool) -> Cost:
    """The product of ``[rows, inputs]`` and ``[inputs, outputs]``, with elements of ``size`` bytes.

    ``added``: it is added to the values in the output.
    """
    values = rows * inputs + inputs * outputs + rows * outputs * (2 if added else 1)
    return Cost(values * size, 2 * rows * inputs * outputs)
