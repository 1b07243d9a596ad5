"""The result of a guided step, what the choice of its backend rests on, and how its tensors lie in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Step(NamedTuple):
    """Result of a step: the next state, the x0 it rests on, and the history for the next step."""

    x: torch.Tensor
    x0: torch.Tensor
    history: torch.Tensor | None

    @classmethod
    def like(cls, x: torch.Tensor, history: torch.Tensor | None) -> Step:
        """Memory for the result of a step from this state and history."""
        return cls(
            torch.empty_like(x), torch.empty_like(x), None if history is None else torch.empty_like(history)
        )


class Call(NamedTuple):
    """The facts of one call."""

    device: str  # x's, as in torch.device.type
    model_dtype: torch.dtype
    input_dtype: torch.dtype | None  # of the next step's network input; None where it is not asked for
    flaw: str | None  # what is not as kernels want it (fp32, dense, on x's device); None: all is
    empty: bool
    gradients: bool
    tracing: bool  # by torch.compile


def spread(x: torch.Tensor) -> tuple[int, int, int] | None:
    """Strides between images, channels and positions of ``[N, C, ...]``, in elements; None for uneven positions."""
    shape, stride = x.shape, x.stride()
    position, expected = 1, None
    for axis in range(x.dim() - 1, 1, -1):
        if shape[axis] == 1:
            continue
        if expected is None:
            position = expected = stride[axis]
        elif stride[axis] != expected:
            return None
        expected *= shape[axis]
    return stride[0], stride[1], position


def facts(
    x: torch.Tensor,
    model_out: torch.Tensor,
    table: torch.Tensor,
    step: torch.Tensor,
    noise: torch.Tensor | None = None,
    *,
    seeds: torch.Tensor | None = None,
    guidance_scale: float | torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
    score: torch.Tensor | None = None,
    history: torch.Tensor | None = None,
    inputs: torch.Tensor | None = None,
    out: Step | None = None,
    **_: object,
) -> Call:
    """The facts of a call with these (checked) arguments of the op, for ``OP.choose`` and ``OP.explain``."""
    device, flaw = x.device, None
    gradients = x.requires_grad or model_out.requires_grad
    for name, tensor in (
        ("x", x),
        ("table", table),
        ("noise", noise),
        ("known", known),
        ("known_mask", known_mask),
        ("score", score),
        ("history", history),
        *(() if out is None else zip(("out.x", "out.x0", "out.history"), out, strict=True)),
    ):
        if tensor is None:
            continue
        gradients = gradients or tensor.requires_grad
        if tensor.dtype != torch.float32:
            flaw = f"{name} is {tensor.dtype}, not float32"
        elif not tensor.is_contiguous():
            flaw = f"{name} is not contiguous"
        elif tensor.device != device:
            flaw = f"{name} is on {tensor.device}, not beside x"
    for name, tensor in (("step", step), ("seeds", seeds)):
        if tensor is not None and tensor.dtype != torch.int64:
            flaw = f"{name} is {tensor.dtype}, not int64"
        elif tensor is not None and tensor.device != device:
            flaw = f"{name} is on {tensor.device}, not beside x"
    if seeds is not None and not seeds.is_contiguous():
        flaw = "seeds are not contiguous"
    for name, tensor in (("model_out", model_out), ("inputs", inputs)):
        if tensor is not None and tensor.device != device:
            flaw = f"{name} is on {tensor.device}, not beside x"
        elif tensor is not None and spread(tensor) is None:
            flaw = f"{name} has positions that are not evenly spaced in memory"
    if isinstance(guidance_scale, torch.Tensor):
        gradients = gradients or guidance_scale.requires_grad
        if guidance_scale.dtype != torch.float32 or guidance_scale.device != device:
            flaw = "guidance_scale is not a float32 tensor beside x"
        elif not guidance_scale.is_contiguous():
            flaw = "guidance_scale is not contiguous"
    return Call(
        device.type,
        model_out.dtype,
        None if inputs is None else inputs.dtype,
        flaw,
        x.numel() == 0,
        gradients and torch.is_grad_enabled(),
        torch.compiler.is_compiling(),
    )


def why_not(call: Call, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """The reasons to decline that all kernels share, for one that reads and writes these types."""
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    for name, dtype in (("model_out", call.model_dtype), ("inputs", call.input_dtype)):
        if dtype is not None and dtype not in dtypes:
            return f"{name} is {dtype}; the kernel takes {names}"
    if call.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if call.empty:
        return "x holds no elements"
    return call.flaw


def address(tensor: torch.Tensor | None) -> int:
    """For the native library: 0 is none."""
    return 0 if tensor is None else tensor.data_ptr()
