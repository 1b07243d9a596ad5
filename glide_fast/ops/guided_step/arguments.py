"""One call of guided_step: its tensors and options, and what the choice of a backend rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.ops import plain_tensor

TENSORS = (
    *("x", "model_out", "table", "step", "noise", "seeds", "guidance_scale", "known", "known_mask", "score"),
    *("history", "inputs", "out.x", "out.x0", "out.history"),
)
"""The arguments that are tensors; the first four are always there."""


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


class Facts(NamedTuple):
    """What the choice of a backend rests on."""

    device: str  # x's, as in torch.device.type
    model_dtype: torch.dtype
    input_dtype: torch.dtype | None  # of the next step's network input; None where it is not asked for
    flaw: str | None  # what is not as kernels want it (fp32, dense, on x's device); None: all is
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


Spread = tuple[int, int, int]
"""Strides between images, channels and positions of ``[N, C, ...]``, in elements."""


def spread(x: torch.Tensor) -> Spread | None:
    """How ``x`` lies in memory; None for positions that are not evenly spaced."""
    shape, stride = x.shape, x.stride()
    position, expected = 1, None
    for axis in range(len(shape) - 1, 1, -1):
        size = shape[axis]
        if size == 1:
            continue
        if expected is None:
            position = expected = stride[axis]
        elif stride[axis] != expected:
            return None
        expected *= size
    return stride[0], stride[1], position


def _spread(x: object) -> Spread | None:
    usable = isinstance(x, torch.Tensor) and x.layout is torch.strided and not x.is_nested and x.dim() > 1
    return spread(x) if usable else None  # type: ignore[arg-type]


@dataclass(slots=True)
class Call:
    """Checked arguments of :func:`glide_fast.ops.guided_step`, under their names there, as backends' ``run`` takes them."""

    x: torch.Tensor
    model_out: torch.Tensor
    table: torch.Tensor
    step: torch.Tensor
    noise: torch.Tensor | None = None
    seeds: torch.Tensor | None = None
    stream: int = 0
    guidance_scale: float | torch.Tensor | None = None
    known: torch.Tensor | None = None
    known_mask: torch.Tensor | None = None
    clip: bool = True
    score: torch.Tensor | None = None
    history: torch.Tensor | None = None
    remember_eps: bool = False
    inputs: torch.Tensor | None = None
    out: Step | None = None

    # None where positions are not evenly spaced, or where there is no such tensor.
    model_spread: Spread | None = field(init=False)
    input_spread: Spread | None = field(init=False)

    def __post_init__(self) -> None:
        # Of what is no tensor of its own memory, the checks of the op speak.
        self.model_spread = _spread(self.model_out)
        self.input_spread = _spread(self.inputs)

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Those that :data:`TENSORS` names."""
        return (
            *(self.x, self.model_out, self.table, self.step, self.noise, self.seeds, self.scale_in_memory),
            *(self.known, self.known_mask, self.score, self.history, self.inputs),
            *(self.out or (None, None, None)),
        )

    @property
    def gradients(self) -> bool:
        """Whether a result is to be differentiated."""
        return torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in self.tensors
        )

    def facts(self) -> Facts:
        """The facts of this call, for ``OP.choose`` and ``OP.explain``."""
        x, model_out, inputs = self.x, self.model_out, self.inputs
        device, fp32 = x.device, torch.float32
        gradients, flaw = model_out.requires_grad, None
        for tensor in (
            *(x, self.table, self.noise, self.known, self.known_mask, self.score, self.history),
            *(self.scale_in_memory, *(self.out or ())),
        ):
            if tensor is None:
                continue
            gradients = gradients or tensor.requires_grad
            if tensor.dtype != fp32 or not tensor.is_contiguous() or tensor.device != device:
                flaw = self._flaw_of(tensor, fp32)
        for tensor in (self.step, self.seeds):
            if tensor is None:
                continue
            # The stride of the steps is read; they need not be dense.
            dense = tensor is self.step or tensor.is_contiguous()
            if tensor.dtype != torch.int64 or not dense or tensor.device != device:
                flaw = self._flaw_of(tensor, torch.int64)
        if self.model_spread is None or model_out.device != device:
            flaw = self._flaw_of(model_out, model_out.dtype)
        if inputs is not None and (self.input_spread is None or inputs.device != device):
            flaw = self._flaw_of(inputs, inputs.dtype)
        return Facts(
            device.type,
            model_out.dtype,
            None if inputs is None else inputs.dtype,
            flaw,
            x.numel() == 0,
            gradients and torch.is_grad_enabled(),
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    def _flaw_of(self, tensor: torch.Tensor, dtype: torch.dtype) -> str:
        """What is wrong with it, in words."""
        named = {name: getattr(self, name) for name in self.__slots__}
        if self.out is not None:
            named |= {f"out.{name}": value for name, value in self.out._asdict().items()}
        name = next(name for name, value in named.items() if value is tensor)
        if tensor.dtype != dtype:
            return f"{name} is {tensor.dtype}, not {str(dtype).removeprefix('torch.')}"
        if tensor.device != self.x.device:
            return f"{name} is on {tensor.device}, not beside x"
        if tensor is self.model_out or tensor is self.inputs:
            return f"{name} has positions that are not evenly spaced in memory"
        return f"{name} is not contiguous"

    def result(self) -> Step:
        """Where the result goes."""
        return Step.like(self.x, self.history) if self.out is None else self.out

    @property
    def scale_in_memory(self) -> torch.Tensor | None:
        """The guidance scale where it is a tensor."""
        return self.guidance_scale if isinstance(self.guidance_scale, torch.Tensor) else None

    @property
    def scale_by_value(self) -> float:
        """The guidance scale where it is a number, else 0."""
        scale = self.guidance_scale
        return 0.0 if scale is None or isinstance(scale, torch.Tensor) else float(scale)

    @property
    def scale_stride(self) -> int:
        """From image to image, of the scale in memory."""
        scale = self.scale_in_memory
        return 0 if scale is None or scale.numel() == 1 else 1

    @property
    def step_stride(self) -> int:
        """From image to image."""
        return self.step.stride(0) if self.step.dim() else 0

    @property
    def copies(self) -> int:
        """How often the next state is written to ``inputs``."""
        return 0 if self.inputs is None else self.inputs.shape[0] // self.x.shape[0]


def why_not(facts: Facts, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """The reasons to decline that all kernels share, for one that reads and writes these types."""
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    for name, dtype in (("model_out", facts.model_dtype), ("inputs", facts.input_dtype)):
        if dtype is not None and dtype not in dtypes:
            return f"{name} is {dtype}; the kernel takes {names}"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "x holds no elements"
    return facts.flaw


def address(tensor: torch.Tensor | None) -> int:
    """For the native library: 0 is none."""
    return 0 if tensor is None else tensor.data_ptr()
