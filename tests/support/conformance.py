"""Tools for the tests of every backend of every op: calls from an op's ``cases.py``, contestants, guarded memory, odd tensors.

Used by tests/ops/test_conformance.py on this machine's CPU, and by tests/ops/check_conformance.py for Triton's backends.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from glide_fast import ops as package
from glide_fast.ops import backends, native
from glide_fast.ops.case import ROUNDING, Case, allowed_error, cases_of, relative_error

GUARD = 256
"""Elements before and behind guarded memory; a multiple of the number that kernels load at once."""
CANARY = 7
HARD = 0.25
"""Where plain torch errs by this much or more, backends may not err as much, whatever the values."""

ON_ANOTHER_OP = {"upsampled_convolution": "convolution"}
"""Ops without backends, and for each the op whose backends run it."""
WRITTEN = frozenset({"out", "inputs"})
"""Arguments that an op writes to."""
OF_RESULT = frozenset({"out", "out_dtype"})
"""Arguments that are the memory or the type of a result: the truth is computed without them."""

Arguments = dict[str, Any]


def names() -> list[str]:
    """Every op: the packages of glide_fast/ops."""
    return sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.ispkg)


def function(op: str) -> Callable[..., Any]:
    """The op's public function."""
    found: Callable[..., Any] = getattr(importlib.import_module(f"glide_fast.ops.{op}"), op)
    return found


def backends_of(op: str) -> backends.Op[Any]:
    """The backends that run the op."""
    return backends.ops()[ON_ANOTHER_OP.get(op, op)]


@functools.cache
def cases(op: str) -> tuple[Case, ...]:
    """The op's cases; of cases with equal small forms only the first. Empty if the op has no ``cases`` (a test reports it)."""
    try:
        listed = cases_of(op).CASES
    except ModuleNotFoundError:
        return ()
    distinct: dict[Any, Case] = {}
    for case in listed:
        draw = case.small or case.draw
        distinct.setdefault((getattr(draw, "func", draw), getattr(draw, "args", case)), case)
    return tuple(distinct.values())


def drawn(case: Case, batch: int, dtype: torch.dtype, device: str = "cpu") -> Arguments:
    """The arguments of a case in its small form."""
    return case.arguments(batch, dtype, device, small=True)


@functools.cache
def representatives(op: str) -> tuple[Case, ...]:
    """The least of the cases that give the same arguments and the same options: each structure of a call once."""
    least: dict[Any, tuple[int, Case]] = {}
    for case in cases(op):
        arguments = drawn(case, 1, torch.float32)
        size = sum(t.numel() for t in arguments.values() if isinstance(t, torch.Tensor))
        key = tuple((name, _structure(value)) for name, value in arguments.items())
        if key not in least or size < least[key][0]:
            least[key] = (size, case)
    return tuple(case for _, case in least.values())


def _structure(value: Any) -> Any:
    """The structure of an argument: the kernel size of a weight, the dimensions of another tensor, the value of an option."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape[2:]) if value.dim() == 4 and max(value.shape[2:]) < 4 else value.dim()
    return value if value is None or isinstance(value, bool | str | torch.dtype) else type(value)


class Contestant(NamedTuple):
    """A backend, for one instruction set where it has several (empty: the best)."""

    backend: str
    isa: str = ""

    def __str__(self) -> str:
        return f"{self.backend} {self.isa}".strip()


def contestants(op: str, every_isa: bool = False) -> Iterator[Contestant]:
    """The backends of an op, each once or once for each instruction set of this machine."""
    library = native.load()
    isas = [] if library is None or not every_isa else library.isas()
    for name in backends_of(op).names:
        yield Contestant(name)
        if name in ("cpu", "winograd"):
            yield from (Contestant(name, isa) for isa in isas[1:])


@contextmanager
def forced(op: str, contestant: Contestant) -> Iterator[None]:
    """A block in which this contestant runs the op; where it declines the op raises BackendError."""

    def with_isa(choice: backends.Choice) -> backends.Backend[Any] | None:
        if not contestant.isa or choice.backend.name != contestant.backend:
            return None
        return replace(choice.backend, run=functools.partial(choice.backend.run, isa=contestant.isa))

    with (
        backends.force(**{ON_ANOTHER_OP.get(op, op): contestant.backend}),
        backends.listen(with_isa),
    ):
        yield


def prepared(op: str, arguments: Arguments, backend: str) -> Arguments:
    """The arguments prepared for this backend, such as a packed weight."""
    prepare = getattr(cases_of(op), "prepared", None)
    found: Arguments = arguments if prepare is None else prepare(arguments, backend)
    return found


def result(op: str, arguments: Arguments) -> list[torch.Tensor]:
    """The results of a call: the returned tensors, and those that it writes to, which are full of NaN before and copied after."""
    written = [leaf for name in WRITTEN for leaf in tree_leaves(arguments.get(name)) if leaf is not None]
    for tensor in written:
        tensor.fill_(float("nan"))
    found = function(op)(**arguments)
    parts = [found] if isinstance(found, torch.Tensor) else [part for part in found if part is not None]
    if arguments.get("inputs") is not None:
        parts.append(arguments["inputs"])
    return [part.clone() for part in parts] if written else parts


def wide(arguments: Arguments, dtype: torch.dtype = torch.float64) -> Arguments:
    """The arguments in a wider type, without those in :data:`OF_RESULT`."""

    def one(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return {name: None if name in OF_RESULT else tree_map(one, value) for name, value in arguments.items()}


def by_reference(op: str, arguments: Arguments) -> list[torch.Tensor]:
    """The result in plain torch."""
    with forced(op, Contestant("reference")):
        return result(op, arguments)


class Judge:
    """The truth of a call in fp64, and the errors that a backend may have, from those of plain torch in the call's type.

    ``hard``: for values on which plain torch may have a large error (below :data:`HARD`), backends may have twice that.
    """

    def __init__(self, op: str, arguments: Arguments, *, hard: bool = False) -> None:
        self.truth = by_reference(op, wide(arguments))
        self.own = by_reference(op, arguments)
        floor: float = cases_of(op).FLOOR
        input_type = next(t.dtype for t in arguments.values() if isinstance(t, torch.Tensor))
        self.allowed: list[float] = []
        for own, truth in zip(self.own, self.truth, strict=True):
            plain = relative_error([own], [truth])
            # A result may have a wider type than the inputs, whose rounding then decides the error.
            allowed = allowed_error(plain, max(own.dtype, input_type, key=ROUNDING.__getitem__), floor)
            self.allowed.append(max(allowed, 2 * plain) if hard and plain < HARD else allowed)

    def check(self, found: list[torch.Tensor], what: object) -> None:
        """Raise AssertionError if a result has another type than plain torch's, or a larger error than is allowed."""
        assert [t.dtype for t in found] == [t.dtype for t in self.own], what
        for part, truth, allowed in zip(found, self.truth, self.allowed, strict=True):
            error = relative_error([part], [truth])
            assert error <= allowed, f"{what}: errs by {error:.3g}, allowed are {allowed:.3g}"


def tensors_of(arguments: Arguments) -> dict[str, torch.Tensor]:
    """The arguments that are plain tensors and are only read."""
    return {
        name: value
        for name, value in arguments.items()
        if type(value) is torch.Tensor and name not in WRITTEN
    }


@contextmanager
def guarded() -> Iterator[None]:
    """A block in which newly allocated memory is full of NaN and lies between canaries, which must not be written."""
    arenas: list[tuple[torch.Tensor, int]] = []
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like

    def around(like: torch.Tensor) -> torch.Tensor:
        if like.device.type == "meta" or type(like) is not torch.Tensor or like.layout is not torch.strided:
            return like
        count = like.numel()
        arena = empty(count + 2 * GUARD, dtype=like.dtype, device=like.device).fill_(CANARY)
        arenas.append((arena, count))
        inner = arena[GUARD : GUARD + count]
        inner.fill_(float("nan") if like.is_floating_point() else 111)
        return inner.as_strided(like.shape, like.stride(), GUARD)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: around(empty(*a, **k)))
        patch.setattr(torch, "empty_like", lambda *a, **k: around(empty_like(*a, **k)))
        patch.setattr(torch.Tensor, "new_empty", lambda *a, **k: around(new_empty(*a, **k)))
        yield
    for arena, count in arenas:
        before, behind = arena[:GUARD], arena[GUARD + count :]
        assert bool((before == CANARY).all()) and bool((behind == CANARY).all()), (
            "a kernel wrote outside of its memory"
        )


@contextmanager
def unchanged(arguments: Arguments) -> Iterator[None]:
    """A block that checks that arguments which are only read, and the memory around them, are not written."""
    memory = {name: _bytes(tensor) for name, tensor in tensors_of(arguments).items()}
    before = {name: whole.clone() for name, whole in memory.items()}
    yield
    for name, whole in memory.items():
        assert torch.equal(whole, before[name]), f"{name} was written"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]


def _order(tensor: torch.Tensor) -> list[int]:
    """The dimensions of a tensor from the outermost to the innermost in memory."""
    return sorted(range(tensor.dim()), key=lambda axis: (-tensor.stride(axis), axis))


def _inside(tensor: torch.Tensor, order: list[int], margin: int, step: int = 1) -> torch.Tensor:
    """A copy whose dimensions lie in memory in this order, inside a larger buffer of NaN (or of a large number)."""
    fill = float("nan") if tensor.is_floating_point() else 99
    sizes = [tensor.shape[axis] for axis in order]
    sizes[-1] *= step
    arena = torch.full([size + 2 * margin for size in sizes], fill, dtype=tensor.dtype, device=tensor.device)
    steps = [1] * (len(order) - 1) + [step]
    inner = arena[tuple(slice(margin, margin + s, k) for s, k in zip(sizes, steps, strict=True))]
    return inner.permute([order.index(axis) for axis in range(tensor.dim())]).copy_(tensor)


def _shifted(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the same strides that begins one element behind the start of its memory, NaN before and behind it."""
    fill = float("nan") if tensor.is_floating_point() else 99
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    arena = torch.full((span + 2,), fill, dtype=tensor.dtype, device=tensor.device)
    return arena.as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)


def two_places(tensor: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The indices of two elements: the first of all, and the last channel of the last sample's first position."""
    last = [-1] + [0] * (tensor.dim() - 1)
    last[_order(tensor)[-1]] = -1
    return (0,) * tensor.dim(), tuple(last)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a window of a larger tensor": lambda t: _inside(t, _order(t), 2),
    "every second element": lambda t: _inside(t, _order(t), 0, 2),
    "dimensions the other way round": lambda t: _inside(t, _order(t)[::-1], 0),
    "one element behind the start": _shifted,
}
"""Functions that copy a dense tensor into another memory layout."""


def without_samples(value: Any, batch: int) -> Any:
    """A value without elements in the dimension of its samples: the one of this size, or of twice it under guidance."""
    if isinstance(value, torch.Tensor):
        for axis, size in enumerate(value.shape):
            if size in (batch, 2 * batch):
                return value.narrow(axis, 0, 0)
    return value


def empty_batch(arguments: Arguments, batch: int) -> Arguments:
    """The call with an empty batch, without a next input to write."""
    return {
        name: None if name in WRITTEN else tree_map(lambda leaf: without_samples(leaf, batch), value)
        for name, value in arguments.items()
    }
