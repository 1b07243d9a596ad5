"""One step of a sampling loop: the network's call and the update of the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from glide_fast.bench import baselines, contestants
from glide_fast.bench.baselines import Declined
from glide_fast.bench.contestants import ABLATIONS, Contestant
from glide_fast.bench.gate import Gate, error
from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.timing import interleaved
from glide_fast.bench.work import Work
from glide_fast.ops import guided_step
from glide_fast.ops.backends import force
from glide_fast.ops.guided_step import Step
from glide_fast.runtime.recording import CudaGraphs

GUIDANCE = 3.0


class OneStep:
    """A contestant's step, over buffers of its own, as :class:`~glide_fast.diffusion.sampling.SamplingLoop` takes it."""

    def __init__(self, contestant: Contestant, work: Work) -> None:
        self._contestant, self._work = contestant, work
        self._inputs = contestant.denoiser.empty_inputs(work.batch, work.shape).copy_(work.x)
        self._state = work.x[: work.count].clone()
        self._out = Step.like(self._state, None)
        self._guidance = torch.full((1,), GUIDANCE, device=work.device) if work.guided else None
        self._recording: Callable[[], None] | None = None

    def predict(self) -> torch.Tensor:
        """The network's prediction for the work's state."""
        with torch.inference_mode(), force(**self._contestant.forced):
            self._inputs.copy_(self._work.x)
            return self._contestant.denoiser(self._inputs, self._work.timesteps, self._work.rows).clone()

    def __call__(self) -> None:
        """The whole step, replayed where it was recorded. The state stays what it was, so every call does the same."""
        if self._recording is not None:
            self._recording()
            return
        with torch.inference_mode(), force(**self._contestant.forced):
            self._advance()

    def record(self) -> None:
        """Record the step of a contestant that is captured, on a GPU."""
        if self._contestant.captured and self._work.device.type == "cuda":
            with torch.inference_mode(), force(**self._contestant.forced):
                self._advance()
                self._recording = CudaGraphs(self._work.device).record(self._advance).replay

    def _advance(self) -> None:
        work = self._work
        out = self._contestant.denoiser(self._inputs, work.timesteps, work.rows)
        guided_step(
            self._state,
            out,
            work.table if self._contestant.tabulated else work.make_table(),
            work.rows[: work.count],
            torch.randn_like(self._state) if self._contestant.drawn else None,
            seeds=None if self._contestant.drawn else work.seeds,
            guidance_scale=self._guidance,
            inputs=self._inputs,
            out=self._out,
        )


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time the step of each model; with ``ablate``, also without each of the runtime's features."""
    for subject in subjects(settings.models):
        yield from of_subject(subject, settings)


def of_subject(subject: Subject, settings: Settings) -> Iterator[Measurement]:
    """Time the step of one model."""
    work = Work(subject, settings.batch, settings.place)
    gate = Gate(subject, work)
    entries: list[Callable[[], Contestant]] = [
        lambda made=made: contestants.baseline(made, subject, work)  # type: ignore[misc]
        for made in baselines.chosen(settings.baselines)
    ]
    names = [made.title for made in baselines.chosen(settings.baselines)]
    entries.append(lambda: contestants.ours(subject, work, settings.kind))
    names.append(contestants.OURS)
    if settings.ablate:
        for name in (ablation.name for ablation in ABLATIONS):
            entries.append(lambda name=name: contestants.ablated(subject, work, settings.kind, name))  # type: ignore[misc]
            names.append(f"{contestants.OURS}, {name}")
    made: dict[str, Contestant] = {}
    steps: dict[str, OneStep] = {}
    errors: dict[str, float] = {}
    declined: dict[str, str] = {}
    for name, enter in zip(names, entries, strict=True):
        try:
            made[name] = enter()
            steps[name] = OneStep(made[name], work)
            errors[name] = error(steps[name].predict(), gate.truth)
            steps[name].record()
        except Declined as reason:
            declined[name] = str(reason)
            made.pop(name, None)
        except (RuntimeError, ValueError, TypeError, ImportError) as failure:
            if name.startswith(contestants.OURS):
                raise
            declined[name] = f"{type(failure).__name__}: {str(failure).strip().partition(chr(10))[0]}"
            made.pop(name, None)
            steps.pop(name, None)
    timings = interleaved(steps, work.device.type, settings.effort)
    first = next((timings[name].median for name in names if name in timings), None)
    for name in names:
        if name not in timings:
            yield Measurement("step", subject.name, str(work), name, note=declined[name])
            continue
        allowed = gate.allowed(made[name].dtype)
        good = errors[name] <= allowed
        yield Measurement(
            "step",
            subject.name,
            str(work),
            name,
            **timed(timings[name]),  # type: ignore[arg-type]
            speedup=first / timings[name].median if good and first is not None else None,
            error=errors[name],
            allowed=allowed,
            note=str(made[name].dtype).removeprefix("torch."),
        )
