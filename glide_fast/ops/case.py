"""The records in an op's ``cases.py``: the calls that GLIDE makes, their least cost, and how far their results may err.

Tests, benchmarks, the profiler, the static reports and tuning all read these records, so that they test and time the very calls
that the runtime makes. Each op's ``cases.py`` has

- ``CASES``: a tuple of :class:`Case`;
- ``cost(call)``: the :class:`Cost` of any ``arguments.Call`` of the op;
- ``FLOOR``: a relative error that is allowed in any case (see :func:`allowed_error`);
- ``describe(call)``: the call in a few words, for people, such as ``2x192x64x64 + FiLM, SiLU`` (:func:`sizes`, :func:`fused`);
- where backends want some arguments converted once, before all calls (such as a packed weight), ``prepared(arguments, backend)``:
  the arguments after that.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
"""The largest relative error of rounding once: half the distance between neighbouring numbers, relative to them."""


class Cost(NamedTuple):
    """The least that a call moves and computes: every operand read once, every result written once.

    A multiply-add is two floating-point operations. A kernel may take more of either.
    """

    bytes: int
    flops: int

    def seconds(self, bandwidth: float, peak: float) -> float:
        """The least time at ``bandwidth`` bytes and ``peak`` FLOPs a second: the roofline (Williams et al. 2009)."""
        return max(self.bytes / bandwidth, self.flops / peak)


def held(*tensors: torch.Tensor | None) -> int:
    """The bytes of all elements of these tensors."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def sizes(tensor: torch.Tensor) -> str:
    """A shape as ``2x192x64x64``."""
    return "x".join(map(str, tensor.shape))


def fused(**parts: object) -> str:
    """The parts fused into a call, as `` + bias, residual``: the names of ``parts`` that are neither None nor False."""
    present = [
        name.replace("_", " ") for name, part in parts.items() if part is not None and part is not False
    ]
    return f" + {', '.join(present)}" if present else ""


Draw = Callable[[int, torch.dtype, torch.Generator], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A call of an op as one of GLIDE's models makes it.

    Attributes:
        op: the op's name.
        model: "base", "upsampler", "clip text" or "clip image".
        name: what distinguishes it from the model's other calls of this op, such as "64px 192 FiLM SiLU"; unique with ``model``.
        batches: the batch sizes to measure; the first is that of one guided prompt.
        draw: returns the public function's arguments by name, for a batch size, a type of the activations and a generator on the
            CPU; tensors are on the CPU, in the memory layout that the runtime uses.
        small: like ``draw``, with a smaller picture or fewer tokens, for tests; None where ``draw`` is quick.
        devices: the types of devices on which the runtime makes this call; it fuses other parts on a CPU than on a GPU.
    """

    op: str
    model: str
    name: str
    batches: tuple[int, ...]
    draw: Draw
    small: Draw | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def title(self) -> str:
        """The case in one line, without its batch."""
        return f"{self.model} {self.name}"

    def arguments(
        self,
        batch: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        seed: int = 0,
        *,
        small: bool = False,
    ) -> dict[str, Any]:
        """The arguments of one call by name; equal for equal parameters, on every device. ``small``: those of ``self.small``."""
        draw = self.small if small and self.small is not None else self.draw
        drawn = draw(batch, dtype, torch.Generator().manual_seed(seed))
        return {name: _on(value, device) for name, value in drawn.items()}


def cases_of(op: str) -> ModuleType:
    """The ``cases.py`` of an op."""
    return importlib.import_module(f"glide_fast.ops.{op}.cases")


@functools.cache
def fake_calls(op: str, dtype: torch.dtype, device: str, *, one_prompt: bool = False) -> tuple[Any, ...]:
    """The ``arguments.Call`` of every case for ``device``, at each batch size, or only at that of one prompt.

    Their tensors have shapes, strides and types, but no memory: enough to compute a cost or a plan, not to run the call.
    """
    call = importlib.import_module(f"glide_fast.ops.{op}.arguments").Call
    cases = [case for case in cases_of(op).CASES if device in case.devices]
    with FakeTensorMode():
        return tuple(
            call(**case.arguments(batch, dtype))
            for case in cases
            for batch in (case.batches[:1] if one_prompt else case.batches)
        )


def _on(value: Any, device: torch.device | str) -> Any:
    """``value`` with its tensors (itself, or those in a tuple or list) on a device, in their present memory layout."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        moved = [_on(one, device) for one in value]
        named = hasattr(value, "_fields")
        return type(value)(*moved) if named else type(value)(moved)
    return value


def activation_dtype(device: torch.device | str) -> torch.dtype:
    """The type that models run in: fp16 on a GPU, bf16 on a CPU."""
    return torch.float16 if torch.device(device).type == "cuda" else torch.bfloat16


def relative_error(result: Iterable[torch.Tensor], truth: Iterable[torch.Tensor]) -> float:
    """The largest relative L2 error of any output; infinite if an output has NaN where the truth has none, or another shape."""
    worst = 0.0
    for got, wanted in zip(list(result), list(truth), strict=True):
        if got.shape != wanted.shape:
            return float("inf")
        difference = float((got.double() - wanted.double()).norm())
        value = difference / max(float(wanted.double().norm()), 1e-30)
        worst = max(worst, value if value == value else float("inf"))
    return worst


class Tolerance(NamedTuple):
    """How large the relative error of a result may be, beside that of plain torch, which computes the same in the same type.

    Attributes:
        margin: the result may err this many times as much as plain torch.
        floor: an error that is allowed in any case.
        sane: where plain torch errs by more than this, plain torch is wrong, and only ``floor`` is allowed.
    """

    margin: float
    floor: float
    sane: float = float("inf")

    @classmethod
    def of_op(cls, dtype: torch.dtype, floor: float = 0.0) -> Tolerance:
        """The tolerance of an op: twice plain torch's error, or ``floor`` or one rounding of the type where that is more.

        Plain torch is trusted up to 32 roundings of the type.
        """
        return cls(2.0, max(ROUNDING[dtype], floor), max(32 * ROUNDING[dtype], floor))

    def allowed(self, plain: float) -> float:
        """The largest error that passes where plain torch errs by ``plain``."""
        return max(self.margin * plain if plain <= self.sane else 0.0, self.floor)


def allowed_error(plain: float, dtype: torch.dtype, floor: float = 0.0) -> float:
    """The largest relative error that an op's result may have: :meth:`Tolerance.of_op`."""
    return Tolerance.of_op(dtype, floor).allowed(plain)
