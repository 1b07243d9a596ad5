"""One step of a sampling loop: the network's call and the update of the state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

from glide_fast.bench import baselines, contestants
from glide_fast.bench.contest import OURS, Competitor, Contest, Unable
from glide_fast.bench.contestants import ABLATIONS, Contestant
from glide_fast.bench.gate import Gate
from glide_fast.bench.measurement import Measurement, short_name
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.work import Work
from glide_fast.ops import guided_step
from glide_fast.ops.backends import force
from glide_fast.ops.guided_step import Step
from glide_fast.runtime.recording import CudaGraphs

GUIDANCE = 3.0


class OneStep:
    """A contestant's step, as in a :class:`~glide_fast.diffusion.sampling.SamplingLoop`, on buffers that no other uses."""

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
        """Run the whole step, by replay where it was recorded. The state is not changed, so every call does the same work."""
        if self._recording is not None:
            self._recording()
            return
        with torch.inference_mode(), force(**self._contestant.forced):
            self._advance()

    def record(self) -> None:
        """Record the step, on a GPU, if the contestant is to be captured."""
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
    work = Work(subject, settings.batch, settings.target_device)
    gate = Gate(subject, work)
    contest = Contest(
        "step",
        subject.name,
        str(work),
        work.device.type,
        truth=lambda: [gate.predict(torch.float32)],
        allowed=lambda dtype, errors: gate.allowed(dtype),
        inputs=[work.x],
        redraw=work.redraw,
    )

    def ready(make: Callable[[], Contestant]) -> Competitor:
        contestant = make()
        step = OneStep(contestant, work)
        step.record()
        return Competitor(step, lambda: [step.predict()], contestant.dtype, short_name(contestant.dtype))

    def enter(name: str, make: Callable[[], Contestant], excuses: tuple[type[Exception], ...]) -> None:
        contest.enter(name, functools.partial(ready, make), excuses)

    for one in baselines.chosen(settings.baselines):
        enter(one.title, functools.partial(contestants.baseline, one, subject, work), baselines.EXCUSES)
    enter(OURS, functools.partial(contestants.ours, subject, work, settings.target_dtype), (Unable,))
    for name in (ablation.name for ablation in ABLATIONS) if settings.ablate else ():
        without = functools.partial(contestants.ablated, subject, work, settings.target_dtype, name)
        enter(f"{OURS}, {name}", without, (Unable,))
    yield from contest.run(settings.effort)
