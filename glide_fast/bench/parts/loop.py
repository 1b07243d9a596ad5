"""A whole sampling loop of one model: the network at every step, the updates, and all that is known before the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from glide_fast.bench import baselines, contestants
from glide_fast.bench.baselines import half_dtype
from glide_fast.bench.contest import OURS, Competitor, Contest, Unable
from glide_fast.bench.contestants import Contestant
from glide_fast.bench.gate import LOOP, error
from glide_fast.bench.measurement import Measurement, short_name
from glide_fast.bench.parts.step import GUIDANCE
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.timing import Effort
from glide_fast.bench.work import Work
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.runtime.captured import CapturedLoop
from glide_fast.runtime.recording import CudaGraphs

STEPS = 50


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time a loop of each model; in the settings ``batch`` counts pictures, and ``steps`` is 50 by default."""
    for subject in subjects(settings.models):
        yield from of_subject(subject, settings)


def looped(contestant: Contestant, work: Work, rule: str) -> CapturedLoop:
    """A contestant's loop. All use the fused update, so that the noise is the same; baselines are not slower for that."""
    loop = SamplingLoop(
        contestant.denoiser,
        work.process,
        work.seeds,
        work.shape,
        rule=rule,
        guidance_scale=GUIDANCE if work.guided else None,
    )
    captured = contestant.captured and work.device.type == "cuda"
    recorder = CudaGraphs(work.device) if captured else None
    return CapturedLoop(loop, recorder, whole_loop=captured)


def of_subject(subject: Subject, settings: Settings) -> Iterator[Measurement]:
    """Time the loop of one model, and compare its result with that of a loop in fp32 for the same noise."""
    steps, pictures = settings.steps or STEPS, settings.batch or 1
    rows = pictures if subject.upsamples else 2 * pictures
    work = Work(subject, rows, settings.target_device, steps)
    rule = "ddim" if subject.upsamples else "ddpm"
    on_cpu = work.device.type == "cpu"
    by_name = {one.name: one for one in baselines.BASELINES}

    def run(name: str) -> torch.Tensor:
        """The result of the loop of an eager baseline."""
        return looped(contestants.baseline(by_name[name], subject, work), work, rule).run()

    @functools.cache
    def truth() -> torch.Tensor:
        return run("eager-cached-text") if on_cpu else _fp32(subject, work, rule)

    @functools.cache
    def allowed(dtype: torch.dtype) -> float:
        half = dtype == half_dtype(work.device)
        return LOOP.allowed(error(run("eager-half"), truth()) if half else 0.0)

    contest = Contest(
        "loop",
        subject.name,
        f"{pictures} x {subject.image_size} px, {steps} {rule} steps",
        work.device.type,
        truth=lambda: [truth()],
        allowed=lambda dtype, errors: allowed(dtype),
        wall=True,
    )

    def ready(make: Callable[[], Contestant]) -> Competitor:
        contestant = make()
        loop = looped(contestant, work, rule)
        if not contestant.ours:
            loop.loop.reset()
            loop.loop.advance()  # a compiled baseline compiles now
        return Competitor(loop.run, lambda: [loop.run()], contestant.dtype, short_name(contestant.dtype))

    def enter(name: str, make: Callable[[], Contestant], excuses: tuple[type[Exception], ...]) -> None:
        contest.enter(name, functools.partial(ready, make), excuses)

    for one in baselines.chosen(settings.baselines):
        enter(one.title, functools.partial(contestants.baseline, one, subject, work), baselines.EXCUSES)
    enter(OURS, functools.partial(contestants.ours, subject, work, settings.target_dtype), (Unable,))
    for row in contest.run(Effort.of_long_calls(settings.samples, settings.seconds)):
        each = "" if row.value is None else f"{row.value / steps:.4g} s a step, "
        yield replace(row, note=f"{each}{row.note}")


def _fp32(subject: Subject, work: Work, rule: str) -> torch.Tensor:
    """The result in fp32 by torch's layers; for GPUs, where the released code runs in fp16."""
    from glide_fast.bench.stock import stock
    from glide_fast.diffusion.denoiser import PlainDenoiser

    model = stock(subject.model, dtype=torch.float32, device=work.device)
    denoiser = PlainDenoiser(baselines.denoiser(model, work.prompt | work.pictures), work.device)
    return looped(Contestant("fp32", denoiser, torch.float32), work, rule).run()
