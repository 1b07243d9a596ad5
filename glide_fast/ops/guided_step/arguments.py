"""One call of guided_step: its arguments, their checks, and the facts by which a backend is chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.ops import checks, plain_tensor, schema

HISTORY = 3
"""Predictions of earlier steps that a rule may use (PLMS uses three, DPM-Solver++(2M) one)."""


class Column:
    """Columns of a rule's coefficient table, ``[steps, Column.COUNT]``."""

    SQRT_RECIP = 0  # sqrt(1 / abar)
    SQRT_RECIPM1 = 1  # sqrt(1 / abar - 1)
    MIN_LOG = 2  # log of the clipped posterior variance
    MAX_LOG = 3  # log(beta)
    X = 4
    X0 = 5
    HISTORY = 6  # 6, 7, 8: the latest remembered prediction first
    NOISE = 9
    LEARNED_NOISE = 10
    SCORE_TO_X0 = 11  # a classifier's gradient enters x0 (Song et al. 2020) ...
    SCORE_TO_MEAN = 12  # ... or the mean, times the variance (Dhariwal & Nichol 2021, algorithm 1)
    COUNT = 13


class Step(NamedTuple):
    """Result of a step: the next state, the x0 from which it was computed, and the history for the next step."""

    x: torch.Tensor
    x0: torch.Tensor
    history: torch.Tensor | None

    @classmethod
    def like(cls, x: torch.Tensor, history: torch.Tensor | None) -> Step:
        """Uninitialised memory for the result of a step from state ``x`` and ``history``."""
        return cls(
            torch.empty_like(x), torch.empty_like(x), None if history is None else torch.empty_like(history)
        )


class Facts(NamedTuple):
    """The facts of a call by which a backend is chosen."""

    device: str  # torch.device.type of x
    model_dtype: torch.dtype
    input_dtype: torch.dtype | None  # type of `inputs`; None without them
    flaw: (
        str | None
    )  # a tensor that kernels cannot read (not fp32, not dense, on another device) and why; None if all can be
    empty: bool
    gradients: bool
    unreadable: str | None = None  # why the tensors are more than their memory (plain_tensor.why_not)


Spread = tuple[int, int, int]
"""Strides between images, channels and positions of ``[N, C, ...]``, in elements."""


def spread(x: torch.Tensor) -> Spread | None:
    """The strides of ``x`` ``[N, C, ...]``; None for positions that are not evenly spaced."""
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


@dataclass(slots=True)
class Call:
    """The arguments of :func:`glide_fast.ops.guided_step`, under their names there; backends' ``run`` takes one.

    Raises:
        InvalidInputError: an argument that must be a tensor is not, or ``out`` is not a :class:`Step` of tensors.
            :func:`check_types` and :func:`check_arguments` check the rest of the contract.
    """

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

    tensors: tuple[torch.Tensor | None, ...] = field(init=False)
    """The arguments in :data:`TENSORS`, in its order; None for a guidance scale that is a number."""

    # None where positions are not evenly spaced, or where there is no such tensor.
    model_spread: Spread | None = field(init=False)
    input_spread: Spread | None = field(init=False)

    def __post_init__(self) -> None:
        out = self.out
        if out is not None and not isinstance(out, Step):
            raise invalid("out", out, "a Step of tensors, or None")
        found = [getattr(self, name) for name in _OWN_TENSORS]
        if not isinstance(self.guidance_scale, torch.Tensor):
            found[_SCALE] = None
        self.tensors = (*found, *(out or (None, None, None)))
        checks.tensors(TENSORS, self.tensors, 4)
        self.model_spread = spread(self.model_out) if self.model_out.dim() > 1 else None
        self.input_spread = None
        if self.inputs is not None and self.inputs.dim() > 1:
            self.input_spread = spread(self.inputs)

    def facts(self) -> Facts:
        """The facts of this call, for ``OP.choose`` and ``OP.explain``."""
        x, model_out, inputs = self.x, self.model_out, self.inputs
        device, fp32 = x.device, torch.float32
        flaw = None
        for tensor in (
            *(x, self.table, self.noise, self.known, self.known_mask, self.score, self.history),
            *(self.scale_in_memory, *(self.out or ())),
        ):
            if tensor is None:
                continue
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
            # Of ``inputs`` nothing is differentiated: it is only written to.
            checks.gradients([tensor for tensor in self.tensors if tensor is not self.inputs]),
            plain_tensor.why_not(TENSORS, self.tensors),
        )

    def _flaw_of(self, tensor: torch.Tensor, dtype: torch.dtype) -> str:
        """Why kernels cannot read ``tensor``, in words that name its argument; ``dtype`` is the type they need."""
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

    @property
    def written(self) -> tuple[torch.Tensor | None, ...]:
        """The caller's tensors that a backend writes to: ``inputs`` and those in ``out``."""
        return (self.inputs, *(self.out or ()))

    def empty_result(self) -> Step:
        """The tensors to write the result to: ``out``, or new ones."""
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
        """The stride from image to image of a guidance scale in memory; 0 for one scale."""
        scale = self.scale_in_memory
        return 0 if scale is None or scale.numel() == 1 else 1

    @property
    def step_stride(self) -> int:
        """The stride from image to image of ``step``; 0 for one step."""
        return self.step.stride(0) if self.step.dim() else 0

    @property
    def copies(self) -> int:
        """How many copies of the next state ``inputs`` holds."""
        return 0 if self.inputs is None else self.inputs.shape[0] // self.x.shape[0]


_OWN_TENSORS = schema.tensors(Call)
_SCALE = _OWN_TENSORS.index("guidance_scale")
TENSORS = (*_OWN_TENSORS, "out.x", "out.x0", "out.history")
"""The names of the arguments that are tensors, with those in ``out``; the first four are never None."""


def why_not(facts: Facts, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why a kernel that takes ``dtypes`` declines a call, as far as the reasons are the same for all kernels; None if none is."""
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
    """The tensor's address; 0 for None, as the native library expects."""
    return 0 if tensor is None else tensor.data_ptr()


_STEP_TYPES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def check_types(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments that are not tensors and have a wrong type or value."""
    scale = call.guidance_scale
    if scale is not None and not isinstance(scale, torch.Tensor):
        number = checks.number("guidance_scale", scale, "a number, a tensor or None")
        if not torch.compiler.is_compiling():  # a compiler passes a symbol, which must stay one
            call.guidance_scale = number
    checks.integer("stream", call.stream, 0, 2**32 - 1)
    checks.flag("clip", call.clip)
    checks.flag("remember_eps", call.remember_eps)


def check_arguments(call: Call) -> None:
    """Raise ``InvalidInputError`` for arguments outside the contract of :func:`guided_step`."""
    full, model_out, table, step = call.x.shape, call.model_out, call.table, call.step
    if len(full) < 3:
        raise invalid("x", tuple(full), "a tensor of shape [N, C, H, W]")
    checks.floating("x", call.x)
    count, channels, *positions = full
    if not channels:
        raise invalid("x", tuple(full), "a tensor with at least one channel")
    copies = 1 if call.guidance_scale is None else 2
    if model_out.shape != (copies * count, 2 * channels, *positions):
        accepted = f"shape {(copies * count, 2 * channels, *positions)}"
        raise invalid("model_out", tuple(model_out.shape), accepted)
    if table.dim() != 2 or table.shape[1] != Column.COUNT or not table.shape[0]:
        raise invalid("table", tuple(table.shape), f"shape [steps, {Column.COUNT}], with a step or more")
    if step.dim() > 1 or (step.dim() == 1 and step.shape[0] != count) or step.dtype not in _STEP_TYPES:
        raise invalid("step", f"{step.dtype} {tuple(step.shape)}", f"an integer tensor [] or [{count}]")
    seeds, scale = call.seeds, call.scale_in_memory
    if seeds is not None:
        if call.noise is not None:
            raise invalid("noise, seeds", "both", "one of them, or neither for a step without noise")
        if seeds.shape != (count,) or seeds.dtype != torch.int64:
            raise invalid("seeds", f"{seeds.dtype} {tuple(seeds.shape)}", f"an int64 tensor [{count}]")
    if scale is not None and scale.numel() not in (1, count):
        raise invalid("guidance_scale", tuple(scale.shape), f"a number, or 1 or {count} elements")
    known, mask = call.known, call.known_mask
    if (known is None) != (mask is None):
        raise invalid("known, known_mask", (type(known).__name__, type(mask).__name__), "both or neither")
    if mask is not None and mask.shape != (count, 1, *positions):
        raise invalid("known_mask", tuple(mask.shape), f"shape {(count, 1, *positions)}")
    history, inputs, out = call.history, call.inputs, call.out
    if history is not None and history.shape != (HISTORY, *full):
        raise invalid("history", tuple(history.shape), f"shape {(HISTORY, *full)}")
    for name, tensor in (("noise", call.noise), ("known", known), ("score", call.score)):
        if tensor is not None and tensor.shape != full:
            raise invalid(name, tuple(tensor.shape), f"the shape of x, {tuple(full)}")
    if inputs is not None and (inputs.shape[1:] != full[1:] or not count or inputs.shape[0] % count):
        raise invalid("inputs", tuple(inputs.shape), f"shape [k {count}, {', '.join(map(str, full[1:]))}]")
    if out is not None:
        shapes = (out.x.shape, out.x0.shape, None if out.history is None else out.history.shape)
        if shapes != (full, full, None if history is None else history.shape):
            raise invalid("out", shapes, "the shapes of x, x and history")
        if out.x is out.x0:
            raise invalid("out", "the same tensor for x and x0", "a tensor for each")
    overlap = None
    if inputs is not None and not inputs.is_contiguous():
        overlap = checks.overlapping("inputs", inputs)
    if overlap is not None:
        raise overlap


def check_step(call: Call) -> None:
    """Raise ``InvalidInputError`` for a step outside the table, if ``step`` is in host memory."""
    if call.step.device.type != "cpu":
        return
    values = call.step.numpy()
    if ((values < 0) | (values >= len(call.table))).any():
        raise outside_the_table(call)


def outside_the_table(call: Call) -> InvalidInputError:
    """The error for a step outside the table."""
    return invalid("step", call.step.tolist(), f"rows of the table, from 0 to {len(call.table) - 1}")


def check_memory(call: Call) -> None:
    """Raise ``InvalidInputError`` where a picture that is written shares memory with another one that is read or written.

    ``x`` may be a result, and ``history`` may be ``out.history``: kernels read each value before they write over it. Tensors with
    gaps between their elements are not checked, since the elements of one may lie in the gaps of another.
    """
    x, model_out, _, _, noise, _, _, known, known_mask, score, history, inputs, *out = call.tensors
    if inputs is None and call.out is None:
        return
    if _same_memory(x, out[0]) or _same_memory(x, out[1]):
        x = None
    if _same_memory(history, out[2]):
        history = None
    ranges = []
    tensors = (x, model_out, noise, known, known_mask, score, history, inputs, *out)
    for (name, writes), tensor in zip(_PICTURES, tensors, strict=True):
        if tensor is not None and (tensor.is_contiguous() or _dense(tensor)) and (size := tensor.nbytes):
            start = tensor.data_ptr()
            ranges.append((start, start + size, name, writes))
    ranges.sort()
    # From the lowest address on, remember the highest end of a written range, and the highest end of any range.
    written_end, written, used_end, used = 0, "", 0, ""
    for start, end, name, writes in ranges:
        last, other = (used_end, used) if writes else (written_end, written)
        if start < last:
            wrong = name if writes else other
            raise invalid(
                "inputs" if wrong == "inputs" else "out", f"{name} in the memory of {other}", _APART
            )
        if end > used_end:
            used_end, used = end, name
        if writes and end > written_end:
            written_end, written = end, name


_WRITTEN = ("inputs", "out.x", "out.x0", "out.history")
_READ = ("x", "model_out", "noise", "known", "known_mask", "score", "history")
_PICTURES = (*((name, False) for name in _READ), *((name, True) for name in _WRITTEN))
_APART = "a tensor in memory of its own (x may be a result, and history out.history)"


def _same_memory(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return False
    return a is b or (a.data_ptr() == b.data_ptr() and a.nbytes == b.nbytes and a.stride() == b.stride())


def _dense(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` has no gaps: it fills the memory from its first byte to its last."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return True
    extent = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return extent == tensor.numel()


def mark_written(call: Call) -> None:
    """Raise the version counters of the caller's tensors that a kernel has written to, as torch's operators would."""
    torch.autograd.graph.increment_version([tensor for tensor in call.written if tensor is not None])
