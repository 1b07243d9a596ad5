"""Every kind of op call that a step makes, with its own tensors: each backend that takes it, against plain torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from glide_fast.bench import contestants
from glide_fast.bench.costs import cost
from glide_fast.bench.gate import SANE, error
from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.parts.step import OneStep
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.timing import interleaved
from glide_fast.bench.work import Work
from glide_fast.ops import schema
from glide_fast.ops.backends import Choice, listen
from glide_fast.ops.convolution.arguments import Call
from glide_fast.ops.convolution.cases import prepared
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.ops.described import described, first_tensor

REFERENCE = "reference"
_LEAST = {torch.float32: 2.0**-22, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Errors that are always allowed: the rounding of a result, and in fp32, the type of the sums as well, another order of them."""
_SECONDS = 4.0
"""For one kind of call at most, after the least number of samples."""


def recorded(subject: Subject, settings: Settings) -> list[tuple[Choice, int]]:
    """One call of each kind that a step makes, and how many there are of it."""
    work = Work(subject, settings.batch, settings.place)
    step = OneStep(contestants.ours(subject, work, settings.kind), work)
    kinds: dict[str, tuple[Choice, int]] = {}

    def note(choice: Choice) -> None:
        label = f"{choice.op.name} {described(choice)} {first_tensor(choice).dtype}"
        first, calls = kinds.get(label, (choice, 0))
        kinds[label] = (first, calls + 1)

    with listen(note):
        step()
    return list(kinds.values())


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time the calls of each model's step."""
    for subject in subjects(settings.models):
        for choice, calls in recorded(subject, settings):
            yield from of_call(subject.name, choice, calls, settings)


def of_call(model: str, choice: Choice, calls: int, settings: Settings) -> Iterator[Measurement]:
    """Time one call by every backend that takes it."""
    with torch.inference_mode():
        truth = _tensors(choice.op.backend(REFERENCE).run(*_wide(choice.arguments), **_wide(choice.options)))
        runs: dict[str, Callable[[], object]] = {}
        errors: dict[str, float] = {}
        declined: dict[str, str] = {}
        for name in choice.op.names:
            backend = choice.op.backend(name)
            reason = backend.supports(choice.facts)  # not whether it is worth it: that is the question
            if reason is not None:
                declined[name] = reason
                continue
            arguments = _laid_out_for(backend.name, choice.arguments)
            runs[backend.name] = lambda backend=backend, arguments=arguments: backend.run(  # type: ignore[misc]
                *arguments, **choice.options
            )
            got = _tensors(runs[backend.name]())
            errors[backend.name] = max(error(a, b) for a, b in zip(got, truth, strict=True))
        effort = settings.effort._replace(seconds=min(settings.seconds, _SECONDS))
        timings = interleaved(runs, first_tensor(choice).device.type, effort)
    # The reference first: speed-ups are over it.
    dtype = first_tensor(choice).dtype
    allowed = max(2 * errors[REFERENCE] if errors[REFERENCE] <= SANE else 0.0, _LEAST.get(dtype, 0.0))
    work = f"{choice.op.name} {described(choice)}, {str(dtype).removeprefix('torch.')}, {calls} a step"
    for name in sorted(timings, key=lambda name: name != REFERENCE):
        timing = timings[name]
        spent = cost(choice._replace(backend=choice.op.backend(name)))
        rates = [
            f"{spent.bytes / timing.median / 1e3:.1f} GB/s",
            f"{spent.flops / timing.median / 1e3:.0f} GFLOP/s",
        ]
        if name == choice.backend.name:
            rates.append("chosen")
        yield Measurement(
            "ops",
            model,
            work,
            "plain torch" if name == REFERENCE else f"{contestants.OURS} {name}",
            **timed(timing),  # type: ignore[arg-type]
            speedup=timings[REFERENCE].median / timing.median if errors[name] <= allowed else None,
            error=errors[name],
            allowed=allowed,
            note=", ".join(rates),
        )
    for name, reason in declined.items():
        yield Measurement("ops", model, work, f"{contestants.OURS} {name}", note=reason)


def _laid_out_for(backend: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The call with its weight as this backend holds it; the others would unpack it at every call."""
    call = arguments[0]
    if not isinstance(call, Call) or not isinstance(call.weight, PackedWeight):
        return arguments
    given = {name: getattr(call, name) for name in schema.arguments(Call)}
    return (Call(**prepared(given, backend)),)


def _tensors(result: Any) -> list[torch.Tensor]:
    """A result's tensors, copied: some backends write to memory that the call was given."""
    if isinstance(result, torch.Tensor):
        return [result.clone()]
    parts: Iterable[Any] = result
    return [part.clone() for part in parts if part is not None]


def _wide(value: Any) -> Any:
    """Arguments in fp64, without the memory that results are to be written to and without a type for them."""
    if isinstance(value, PackedWeight):
        value = value.dense()
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return type(value)(**_wide({name: getattr(value, name) for name in names}))
    if isinstance(value, tuple):
        return tuple(_wide(part) for part in value)
    if isinstance(value, dict):
        results = ("out", "inputs", "out_dtype")
        return {name: None if name in results else _wide(part) for name, part in value.items()}
    return value
