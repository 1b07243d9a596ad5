"""The op calls of a step, on the step's tensors, equal calls once: each backend that supports the call, against plain torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from glide_fast.bench import contestants
from glide_fast.bench.calls import WRITTEN, elsewhere, results, widened
from glide_fast.bench.contest import OURS, PLAIN, Competitor, Contest, Unable
from glide_fast.bench.cost import cost
from glide_fast.bench.measurement import Measurement, short_name
from glide_fast.bench.parts.step import OneStep
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.work import Work
from glide_fast.ops import schema
from glide_fast.ops.backends import Choice, listen
from glide_fast.ops.case import allowed_error
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.cases import prepared
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.described import described, first_tensor

REFERENCE = "reference"
SUMS = 2.0**-22
"""Relative error that is always allowed in fp32: sums are fp32 too, and kernels may add in another order."""
_SECONDS = 4.0
"""The longest time for one call, once it has its least number of samples."""


def recorded(subject: Subject, settings: Settings) -> list[tuple[Choice, int]]:
    """The op calls of a step, equal calls once, and how many there are of each."""
    work = Work(subject, settings.batch, settings.target_device)
    step = OneStep(contestants.ours(subject, work, settings.target_dtype), work)
    calls: dict[str, tuple[Choice, int]] = {}

    def note(choice: Choice) -> None:
        label = f"{choice.op.name} {described(choice)} {first_tensor(choice).dtype}"
        first, count = calls.get(label, (choice, 0))
        calls[label] = (first, count + 1)

    with listen(note):
        step()
    return list(calls.values())


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time the calls of each model's step."""
    for subject in subjects(settings.models):
        for choice, calls in recorded(subject, settings):
            yield from of_call(subject.name, choice, calls, settings)


def of_call(model: str, choice: Choice, calls: int, settings: Settings) -> Iterator[Measurement]:
    """Time one call by every backend that supports it."""
    dtype = first_tensor(choice).dtype
    floor = SUMS if dtype == torch.float32 else 0.0
    contest = Contest(
        "ops",
        model,
        f"{choice.op.name} {described(choice)}, {short_name(dtype)}, {calls} a step",
        first_tensor(choice).device.type,
        truth=lambda: results(choice.op.backend(REFERENCE).run(widened(choice.call))),
        allowed=lambda dtype, errors: allowed_error(errors.get(PLAIN, 0.0), dtype, floor),
        cost=lambda name: cost(choice._replace(backend=choice.op.backend(_backend(name)))),
    )

    def ready(name: str) -> Competitor:
        chosen = name == choice.backend.name  # with its plan
        backend = choice.backend if chosen else choice.op.backend(name)
        reason = backend.supports(choice.facts)  # `worth` is not asked: the measurement is to show it
        if reason is not None:
            raise Unable(reason)
        held = _held_by(name, choice.call)
        memory = [one for one in getattr(held, "written", ()) if one is not None]

        def call() -> Any:
            return backend.run(held)

        def compared() -> list[torch.Tensor]:
            for one in memory:
                one.fill_(torch.nan)
            # Copied, since some results are in memory that the next call overwrites.
            return [one.clone() for one in results(call())]

        return Competitor(call, compared, dtype, "chosen" if chosen else "")

    # The reference first: speed-ups are over it.
    for name in sorted(choice.op.names, key=lambda name: name != REFERENCE):
        title = PLAIN if name == REFERENCE else f"{OURS} {name}"
        contest.enter(title, functools.partial(ready, name))
    effort = settings.effort._replace(seconds=min(settings.seconds, _SECONDS), cold=True)
    yield from contest.run(effort)


def _backend(contestant: str) -> str:
    """The backend behind a contestant's name."""
    return REFERENCE if contestant == PLAIN else contestant.removeprefix(f"{OURS} ")


def _held_by(backend: str, call: Any) -> Any:
    """The call with separate memory for the results, and its weight packed as this backend wants it.

    Otherwise results of another backend, still in memory, could pass for this one's; and a backend that does not read the packed
    weight would unpack it at every call.
    """
    arguments = {name: getattr(call, name) for name in schema.arguments(type(call))}
    arguments |= {name: elsewhere(arguments[name]) for name in WRITTEN if name in arguments}
    if isinstance(call, Call) and isinstance(call.weight, PackedWeight):
        arguments = prepared(arguments, backend)
    return type(call)(**arguments)
