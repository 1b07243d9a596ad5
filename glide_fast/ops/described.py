"""A call of an op in words, for people: what its tensors' sizes are, and what is fused into it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from glide_fast.ops.backends import Choice
from glide_fast.ops.group_norm_act.arguments import Call as NormCall
from glide_fast.ops.guided_step.arguments import Call as StepCall


def sizes(tensor: torch.Tensor) -> str:
    """A shape as ``2x192x64x64``."""
    return "x".join(map(str, tensor.shape))


def _also(**parts: Any) -> str:
    present = [
        name.replace("_", " ") for name, there in parts.items() if there is not None and there is not False
    ]
    return f" + {', '.join(present)}" if present else ""


def _group_norm_act(choice: Choice) -> str:
    call: NormCall = choice.arguments[0]
    second = "" if call.x2 is None else f" with {sizes(call.x2)}"
    fused = _also(
        bias=call.x_bias,
        residual=call.residual,
        kept_sum=call.keep_sum and call.adds,
        FiLM=call.scale,
        SiLU=call.silu,
    )
    return sizes(call.x) + second + fused + (f", {call.resample}" if call.resample else "")


def _convolution(choice: Choice) -> str:
    x, weight, bias, residual, stride, _ = choice.arguments
    kernel = "x".join(map(str, weight.shape[2:])) if weight.dim() == 4 else "1x1"
    by = f" /{stride[0]}" if max(stride) > 1 else ""
    return f"{sizes(x)} to {weight.shape[0]}, {kernel}{by}{_also(bias=bias, residual=residual)}"


def _resample(choice: Choice) -> str:
    x, mode = choice.arguments
    return f"{sizes(x)}, {mode}{_also(**choice.options)}"


def _guided_step(choice: Choice) -> str:
    call: StepCall = choice.arguments[0]
    return sizes(call.x) + _also(
        guidance=call.guidance_scale, noise=call.seeds, known=call.known, history=call.history
    )


_DESCRIBE: dict[str, Callable[[Choice], str]] = {
    "group_norm_act": _group_norm_act,
    "convolution": _convolution,
    "resample": _resample,
    "guided_step": _guided_step,
}


def first_tensor(choice: Choice) -> torch.Tensor:
    """The call's first tensor, whose type and device count as the call's."""
    first = choice.arguments[0]
    tensor: torch.Tensor = first if isinstance(first, torch.Tensor) else first.tensors[0]
    return tensor


def described(choice: Choice) -> str:
    """Sizes and what is fused, such as ``2x192x64x64 + FiLM, SiLU``."""
    name = choice.op.name
    if name in _DESCRIBE:
        return _DESCRIBE[name](choice)
    words: str = importlib.import_module(f"glide_fast.ops.{name}.cases").describe(choice.arguments[0])
    return words
