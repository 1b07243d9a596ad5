"""The calls that are to be measured, the most telling first: GLIDE's, out of the ops' cases, or those of a model's step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glide_fast.errors import invalid
from glide_fast.ops import arena, schema
from glide_fast.ops.backends import Choice, listen, ops
from glide_fast.ops.case import Cost, cases_of
from glide_fast.ops.convolution import packed_weight
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.plans.signature import PACKED, parts, signature, tensor_part
from glide_fast.tune.recipe import Recipe, recipe_of

GAIN = {
    "group_norm_act": 0.4,
    "convolution": 0.25,
    "text_attention": 0.25,
    "masked_attention": 0.2,
    "resample": 0.15,
    "guided_step": 0.1,
}
"""What share of a call's time a measured choice may save, roughly: what was seen on an H100, where the norm's plans cost up to
2.5 times too much, and a guess of the others."""
RATES = {"cuda": (2e12, 3e14, 4e-6), "cpu": (1.5e10, 2e11, 1e-5)}
"""Bytes and FLOPs a second, and the seconds of an empty call, by which the time of a call is guessed; only ratios count."""


class Task(NamedTuple):
    """A call to be measured.

    Attributes:
        title: for people.
        signature: the line by which the choice will be looked up.
        arguments: makes the public function's arguments on the device, with values as the model has them.
        cost: what the call moves and computes at least.
        turn: tasks of a smaller number come first: the batch of one prompt, then larger ones.
        times: how many such calls a step makes; 1 where that is not known.
        recipe: for processes that compile.
    """

    op: str
    title: str
    signature: str
    arguments: Callable[[], dict[str, Any]]
    cost: Cost
    turn: int
    times: float
    recipe: Recipe

    def seconds(self, device: str) -> float:
        """A guess of the time of one call."""
        bandwidth, peak, floor = RATES[device]
        return self.cost.seconds(bandwidth, peak) + floor

    def value(self, device: str) -> float:
        """Seconds of a step that a measured choice may save."""
        return self.times * self.seconds(device) * GAIN.get(self.op, 0.1)


def in_order(tasks: Iterable[Task], device: str) -> list[Task]:
    """The most telling first: those of one prompt, then of larger batches, and of each what may save most of a step."""
    return sorted(tasks, key=lambda task: (task.turn, -task.value(device), task.title))


def chosen_ops(names: Sequence[str]) -> list[str]:
    """The ops of these names, or all; InvalidInputError for a name that is none."""
    for name in names:
        if name not in ops():
            raise invalid("op", name, ", ".join(sorted(ops())))
    return sorted(names or ops())


def of_cases(
    names: Sequence[str], device: str, dtype: torch.dtype, *, batches: int | None = None, small: bool = False
) -> list[Task]:
    """GLIDE's calls of some ops, at the batch sizes of the cases; alike ones once.

    Args:
        batches: how many of a case's batch sizes; None is all.
        small: as small as the cases can be, to try the plumbing.
    """
    found: dict[tuple[str, str], Task] = {}
    for op in names:
        for case in cases_of(op).CASES:
            if device not in case.devices:
                continue
            for turn, batch in enumerate(case.batches[:batches]):

                def arguments(case: Any = case, batch: int = batch) -> dict[str, Any]:
                    drawn: dict[str, Any] = case.arguments(batch, dtype, device, small=small)
                    return drawn

                with FakeTensorMode():
                    call = checked(op, case.arguments(batch, dtype, small=small))
                    line = held_signature(op, call, device)
                    cost, recipe = cases_of(op).cost(call), recipe_of(op, call)
                title = f"{op} {case.title}, batch {batch}"
                found.setdefault((op, line), Task(op, title, line, arguments, cost, turn, 1.0, recipe))
    return list(found.values())


def checked(op: str, arguments: Mapping[str, Any]) -> Any:
    """The op's record of a call with these arguments, as its public function leaves it to a backend."""
    module = importlib.import_module(f"glide_fast.ops.{op}.arguments")
    call = module.Call(**arguments)
    module.check_arguments(call)
    return call


def held_signature(op: str, call: Any, device: str) -> str:
    """The signature of a call as the runtime makes it: on a CPU it holds the weights of convolutions packed."""
    if op != "convolution" or device != "cpu" or packed_weight.why_not(call.weight.dtype) is not None:
        return signature(call)
    packed = tensor_part("weight", call.weight, PACKED)
    return ", ".join(packed if part.startswith("weight ") else part for part in parts(call))


def of_model(
    model: str, batch: int | None, names: Sequence[str], device: torch.device, dtype: torch.dtype
) -> list[Task]:
    """The calls that a step of a model makes, with the values that they have there; alike ones once."""
    # What measures whole models is needed here only.
    from glide_fast.bench import contestants
    from glide_fast.bench.parts.step import OneStep
    from glide_fast.bench.subject import subjects
    from glide_fast.bench.work import Work

    found: dict[tuple[str, str], Task] = {}
    for subject in subjects([model]):
        work = Work(subject, batch, device)

        def note(choice: Choice, name: str = subject.name) -> None:
            if choice.op.name not in names:
                return
            key = choice.op.name, signature(choice.call)
            if key in found:
                found[key] = found[key]._replace(times=found[key].times + 1)
                return
            with arena.outside():
                found[key] = _of_call(name, choice, key[1])

        step = OneStep(contestants.ours(subject, work, dtype), work)
        with listen(note):
            step()
    return list(found.values())


def _of_call(model: str, choice: Choice, line: str) -> Task:
    cases = cases_of(choice.op.name)
    given = {name: _kept(getattr(choice.call, name)) for name in schema.arguments(type(choice.call))}
    title = f"{choice.op.name} {model} {cases.describe(choice.call)}"
    recipe = recipe_of(choice.op.name, choice.call)
    return Task(choice.op.name, title, line, lambda: dict(given), cases.cost(choice.call), 0, 1.0, recipe)


def _kept(value: Any) -> Any:
    """A tensor as it is now, in the same layout, or those of a record; parameters, which nobody writes to, are shared."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_kept, value))
    if not isinstance(value, torch.Tensor) or isinstance(value, (PackedWeight, torch.nn.Parameter)):
        return value
    copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return copy.copy_(value)
