"""What half precision and another device make of steps, loops and pictures, beside what they make of torch's own code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from benchmarks.gpu.part import Outcome, Part, Setting, conclude
from benchmarks.gpu.parts.loops import models
from glide_fast import GlidePipeline
from glide_fast.bench.contestants import accelerated, bind
from glide_fast.bench.gate import STEP, error
from glide_fast.bench.measurement import short_name
from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.work import Work
from glide_fast.diffusion.denoiser import LoopDenoiser, PlainDenoiser
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.ops.case import Tolerance

TYPES = {"cuda": (torch.float16, torch.bfloat16, torch.float32), "cpu": (torch.bfloat16, torch.float32)}
PLACES = (0.98, 0.5, 0.02)
"""Of a process, from clean to noise: where single steps are looked at."""
LOOP_STEPS, LOOP_PICTURES = 50, 8
LOOP = Tolerance(margin=2.0, floor=STEP.floor)
"""Of a loop's pictures: a loop magnifies what differs early, each time otherwise."""
FP32_LOOP = Tolerance(margin=0.0, floor=1e-2)
"""Of a loop in fp32 against fp32."""
SAME = {torch.float32: 40.0, torch.float16: 30.0, torch.bfloat16: 25.0}
"""PSNR, in dB, that the shipped model's pictures must reach against those of a CPU in fp32."""
PROMPTS = ("a red cube", "a large purple pyramid", "a small green star")


def exact_products() -> None:
    """Keep cuDNN and cuBLAS from rounding fp32 to TF32: what counts as truth would be no truer than fp16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def plain(subject: Subject, work: Work, dtype: torch.dtype) -> PlainDenoiser:
    """The network of torch's own layers."""
    model = stock(subject.model, dtype=dtype, device=work.device)
    conditioning = work.prompt | work.pictures
    return PlainDenoiser(lambda x, timesteps: model(x, timesteps, **conditioning), work.device)


class Judged(NamedTuple):
    """An error, torch's own, and how much may be."""

    error: float
    torchs: float
    allowed: float

    def row(self) -> dict[str, str]:
        """Its columns."""
        return {
            "gate": "green" if self.error <= self.allowed else "red",
            "error": f"{self.error:.3g}",
            "torch_error": f"{self.torchs:.3g}",
            "allowed": f"{self.allowed:.3g}",
        }


def step_errors(subject: Subject, setting: Setting) -> Iterator[tuple[torch.dtype, float, Judged]]:
    """Of single predictions; relative L2 against torch's fp32."""
    work = Work(subject, None, torch.device(setting.device))

    def predict(denoiser: LoopDenoiser, row: int) -> torch.Tensor:
        rows = torch.full_like(work.rows, row)
        times = torch.full_like(work.rows, int(work.process.timestep_map[row]))
        inputs = denoiser.empty_inputs(work.batch, work.shape).copy_(work.x)
        with torch.inference_mode():
            return denoiser(inputs, times, rows).float()

    places = {place: int(place * (work.process.num_timesteps - 1)) for place in PLACES}
    truth = plain(subject, work, torch.float32)
    truths = {place: predict(truth, row) for place, row in places.items()}
    del truth
    for dtype in TYPES[setting.device]:
        torchs, ours = plain(subject, work, dtype), bind(accelerated(subject, work, dtype), work)
        for place, row in places.items():
            theirs = error(predict(torchs, row), truths[place])
            yield (
                dtype,
                place,
                Judged(error(predict(ours, row), truths[place]), theirs, STEP.allowed(theirs)),
            )


def loop_errors(subject: Subject, setting: Setting) -> Iterator[tuple[torch.dtype, Judged, float]]:
    """Of whole loops on the same seeds, with their PSNR; relative L2 against torch's fp32."""
    steps, pictures = (2, 2) if setting.small else (LOOP_STEPS, LOOP_PICTURES)
    rows = pictures if subject.upsamples else 2 * pictures
    work = Work(subject, rows, torch.device(setting.device), steps)

    def draw(denoiser: LoopDenoiser) -> torch.Tensor:
        scale = 3.0 if work.guided else None
        loop = SamplingLoop(denoiser, work.process, work.seeds, work.shape, guidance_scale=scale)
        return loop.run()

    truth = draw(plain(subject, work, torch.float32))
    for dtype in TYPES[setting.device]:
        theirs = error(draw(plain(subject, work, dtype)), truth)
        got = draw(bind(accelerated(subject, work, dtype), work))
        allowed = (FP32_LOOP if dtype == torch.float32 else LOOP).allowed(theirs)
        yield dtype, Judged(error(got, truth), theirs, allowed), psnr((got + 1) / 2, (truth + 1) / 2)


def psnr(got: torch.Tensor, want: torch.Tensor) -> float:
    """Of values in [0, 1], in dB; infinite where they are equal."""
    square = float((got.clamp(0, 1).double() - want.clamp(0, 1).double()).square().mean())
    return -10 * math.log10(square) if square else math.inf


def steps(setting: Setting) -> Outcome:
    exact_products()
    table = setting.table("accuracy-steps", ("model", "dtype", "place"))
    for subject in models(setting):
        if table.find(subject.name, short_name(TYPES[setting.device][-1]), str(PLACES[-1])):
            continue
        if setting.time_is_up:
            return conclude(table.file, table.red(), subject.name)
        for dtype, place, judged in step_errors(subject, setting):
            table.add({"model": subject.name, "dtype": short_name(dtype), "place": str(place)} | judged.row())
    return conclude(table.file, table.red())


def loops(setting: Setting) -> Outcome:
    exact_products()
    table = setting.table("accuracy-loops", ("model", "dtype"))
    for subject in [*(() if setting.small else subjects(("small",))), *models(setting)]:
        if table.find(subject.name, short_name(TYPES[setting.device][-1])):
            continue
        if setting.time_is_up:
            return conclude(table.file, table.red(), subject.name)
        for dtype, judged, ratio in loop_errors(subject, setting):
            table.add(
                {"model": subject.name, "dtype": short_name(dtype)}
                | judged.row()
                | {"psnr_db": f"{ratio:.1f}"}
            )
    return conclude(table.file, table.red())


def same_picture(setting: Setting) -> Outcome:
    """The shipped model's pictures from the same seeds on this device and on a CPU."""
    exact_products()
    table = setting.table("same-picture", ("stage", "dtype"))
    options = {"num_inference_steps": 2, "upsample_steps": 2} if setting.small else {}
    prompts = list(PROMPTS[:1] if setting.small else PROMPTS)

    def draw(device: str, dtype: torch.dtype, accelerate: bool) -> dict[str, torch.Tensor]:
        pipe = GlidePipeline.from_pretrained("small", device=device, dtype=dtype, accelerate=accelerate)
        out = pipe(prompts, seed=11, output_type="pt", progress=False, **options)  # type: ignore[arg-type]
        return {"base": out.low_res.cpu(), "upsampler": out.images.cpu()}  # type: ignore[union-attr]

    want = draw("cpu", torch.float32, False)
    for dtype in TYPES[setting.device]:
        if table.find("upsampler", short_name(dtype)):
            continue
        for stage, pictures in draw(setting.device, dtype, True).items():
            ratio = psnr(pictures, want[stage])
            table.add(
                {
                    "stage": stage,
                    "dtype": short_name(dtype),
                    "gate": "green" if ratio >= SAME[dtype] else "red",
                    "psnr_db": f"{ratio:.1f}",
                    "allowed_db": f"{SAME[dtype]:.0f}",
                    "largest": f"{float((pictures - want[stage]).abs().max()):.3g}",
                }
            )
    return conclude(table.file, table.red())


def parts(setting: Setting) -> tuple[Part, ...]:
    return (
        Part("accuracy-steps", "error of a step in each type, beside torch's own", steps, 90, least=45),
        Part("accuracy-loops", f"the same of a loop of {LOOP_STEPS} steps", loops, 180, least=60),
        Part(
            "same-picture", "the shipped model's pictures against a CPU's of the same seeds", same_picture, 45
        ),
    )
