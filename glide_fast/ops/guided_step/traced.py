"""guided_step where torch compiles or records: one opaque operator, which writes to tensors that the caller allocates.

Where gradients are needed the reference runs instead, since autograd can differentiate its operators.
"""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.ops import backends, checks, schema
from glide_fast.ops.guided_step import reference
from glide_fast.ops.guided_step.arguments import Call, Step

_ARGUMENTS = tuple(name for name in schema.arguments(Call) if name not in ("guidance_scale", "out"))
_SCHEMA = schema.of_operator(
    Call,
    replaced={
        "guidance_scale": "float? guidance_scale, Tensor? guidance",
        "inputs": "Tensor(a!)? inputs",
        "out": "Tensor(b!) next_x, Tensor(c!) x0, Tensor(d!)? next_history",
    },
)


def run_operator(call: Call) -> Step:
    """The call under ``torch.compile``, or where torch records operators."""
    if checks.gradients(call.tensors):
        return reference.run_unchecked(call)
    x, scale = call.x, call.guidance_scale
    out = call.out or Step.like(x.to(torch.promote_types(x.dtype, torch.float32)), call.history)
    in_memory = isinstance(scale, torch.Tensor)
    operator(
        **{name: getattr(call, name) for name in _ARGUMENTS},
        guidance_scale=None if in_memory else scale,
        guidance=scale if in_memory else None,
        next_x=out.x,
        x0=out.x0,
        next_history=out.history,
    )
    return out


@torch.library.custom_op(
    "glide_fast::guided_step",
    mutates_args=("inputs", "next_x", "x0", "next_history"),
    schema=f"({_SCHEMA}) -> ()",
)
def operator(*arguments: Any) -> None:
    """Run the op: the backend is chosen now, when the tensors have values."""
    *before_out, next_x, x0, next_history = arguments
    values = dict(zip(_OPERANDS, before_out, strict=True))
    guidance = values.pop("guidance")
    if guidance is not None:
        values["guidance_scale"] = guidance
    backends.named("guided_step").run_chosen(Call(**values, out=Step(next_x, x0, next_history)))


_OPERANDS = [
    operand
    for name in schema.arguments(Call)
    if name != "out"
    for operand in ((name, "guidance") if name == "guidance_scale" else (name,))
]
"""The names of the operator's arguments, without the results."""


@operator.register_fake
def _fake(*arguments: object) -> None:
    """Returns nothing: all results go into tensors of the caller."""
