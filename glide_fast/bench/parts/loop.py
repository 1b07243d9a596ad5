"""A whole sampling loop of one model: the network at every step, the updates, and all that is known before the loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.bench import baselines, contestants
from glide_fast.bench.baselines import Declined, half_dtype
from glide_fast.bench.contestants import Contestant
from glide_fast.bench.gate import FLOOR, allowance, error
from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.parts.step import GUIDANCE
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.turns import in_turns
from glide_fast.bench.work import Work
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.runtime.captured import CapturedLoop
from glide_fast.runtime.recording import CudaGraphs

STEPS = 50
_FLOOR = 10 * FLOOR
"""Steps add up."""


def measure(settings: Settings) -> Iterator[Measurement]:
    """Time a loop of each model; ``batch`` counts pictures, ``steps`` is 50 unless it is given."""
    for subject in subjects(settings.models):
        yield from of_subject(subject, settings)


def looped(contestant: Contestant, work: Work, rule: str) -> CapturedLoop:
    """A contestant's loop. The update is the fused one for all: so the noise is the same, and nobody is slower for it."""
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
    """Time the loop of one model, and compare what comes out of it with fp32's for the same noise."""
    steps, pictures = settings.steps or STEPS, settings.batch or 1
    rows = pictures if subject.upsamples else 2 * pictures
    work = Work(subject, rows, settings.place, steps)
    rule = "ddim" if subject.upsamples else "ddpm"
    title = f"{pictures} x {subject.image_size} px, {steps} {rule} steps"
    wanted = {made.title: made for made in baselines.chosen(settings.baselines)}
    by_name = {made.name: made for made in baselines.BASELINES}

    loops: dict[str, CapturedLoop] = {}
    types: dict[str, torch.dtype] = {}
    declined: dict[str, str] = {}
    for name, made in wanted.items():
        try:
            contestant = contestants.baseline(made, subject, work)
            loops[name] = looped(contestant, work, rule)
            loops[name].loop.reset()
            with torch.inference_mode():
                loops[name].loop.advance()  # compiles, where it is compiled
            types[name] = contestant.dtype
        except (Declined, RuntimeError, ValueError, TypeError, ImportError) as reason:
            loops.pop(name, None)
            declined[name] = str(reason).strip().partition("\n")[0]
    mine = contestants.ours(subject, work, settings.kind)
    loops[contestants.OURS], types[contestants.OURS] = looped(mine, work, rule), mine.dtype

    results = {name: loop.run() for name, loop in loops.items()}
    timings = in_turns(
        {name: loop.run for name, loop in loops.items()},
        work.device.type,
        settings.samples,
        settings.seconds,
    )

    def made_by(name: str) -> torch.Tensor:
        """The loop's result by one of torch's own eager baselines, computed if it did not compete."""
        title = by_name[name].title
        if title not in results:
            results[title] = looped(contestants.baseline(by_name[name], subject, work), work, rule).run()
        return results[title]

    fp32_is_released = work.device.type == "cpu"
    truth = made_by("eager-cached-text") if fp32_is_released else _fp32(subject, work, rule)
    allowed = {torch.float32: _FLOOR}
    if any(kind != torch.float32 for kind in types.values()):
        allowed[half_dtype(work.device)] = allowance(error(made_by("eager-half"), truth), _FLOOR)
    first = next((timings[name].median for name in wanted if name in timings), None)
    for name in (*wanted, contestants.OURS):
        if name not in timings:
            yield Measurement("loop", subject.name, title, name, note=declined[name])
            continue
        wrong, most = error(results[name], truth), allowed.get(types[name], _FLOOR)
        each = timings[name].median / 1e6 / steps
        yield Measurement(
            "loop",
            subject.name,
            title,
            name,
            **timed(timings[name]),  # type: ignore[arg-type]
            speedup=first / timings[name].median if first is not None and wrong <= most else None,
            error=wrong,
            allowed=most,
            note=f"{each:.4g} s a step, {str(types[name]).removeprefix('torch.')}",
        )


def _fp32(subject: Subject, work: Work, rule: str) -> torch.Tensor:
    """The result in fp32 by torch's own layers, where the released code runs in fp16."""
    from glide_fast.bench.stock import stock
    from glide_fast.diffusion.denoiser import PlainDenoiser

    model = stock(subject.model, dtype=torch.float32, device=work.device)
    denoiser = PlainDenoiser(baselines.denoiser(model, work.prompt | work.pictures), work.device)
    return looped(Contestant("fp32", denoiser, torch.float32), work, rule).run()
