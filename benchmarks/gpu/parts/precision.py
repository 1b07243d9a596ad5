"""The errors of half precision in steps, loops and pictures on this device, for glide_fast and for torch's layers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from benchmarks.gpu.part import Outcome, Part, Setting, conclude
from benchmarks.gpu.parts.loops import models
from glide_fast import GlidePipeline
from glide_fast.bench.contest import OURS, Competitor, Contest
from glide_fast.bench.contestants import accelerated, bind
from glide_fast.bench.gate import STEP
from glide_fast.bench.measurement import KEY, short_name
from glide_fast.bench.parts.quality import psnr
from glide_fast.bench.record import Table
from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.work import Work
from glide_fast.diffusion.denoiser import LoopDenoiser, PlainDenoiser
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.ops.case import Tolerance

TYPES = {"cuda": (torch.float16, torch.bfloat16, torch.float32), "cpu": (torch.bfloat16, torch.float32)}
LEVELS = (0.98, 0.5, 0.02)
"""The steps that are compared singly, as fractions of the process from the clean picture to noise."""
LOOP_STEPS, LOOP_PICTURES = 50, 8
LOOP = Tolerance(margin=2.0, floor=STEP.floor)
"""The tolerance for a loop's pictures: a loop magnifies early differences, by another factor each time."""
FP32_LOOP = Tolerance(margin=0.0, floor=1e-2)
"""The tolerance for the pictures of a loop in fp32."""
SAME = {torch.float32: 40.0, torch.float16: 30.0, torch.bfloat16: 25.0}
"""PSNR, in dB, that the shipped model's pictures must reach against those of a CPU in fp32."""
MODEL = "small"
"""The model whose pictures are compared; it has trained weights, since pictures of random weights mean nothing."""
PROMPTS = ("a red cube", "a large purple pyramid", "a small green star")


def exact_products() -> None:
    """Keep cuDNN and cuBLAS from rounding fp32 to TF32: the truth, which is computed in fp32, would be as inexact as fp16."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def plain(subject: Subject, work: Work, dtype: torch.dtype) -> PlainDenoiser:
    """The network built of torch's layers."""
    model = stock(subject.model, dtype=dtype, device=work.device)
    conditioning = work.prompt | work.pictures
    return PlainDenoiser(lambda x, timesteps: model(x, timesteps, **conditioning), work.device)


def contest(
    subject: Subject,
    work: Work,
    what: str,
    run: Callable[[LoopDenoiser], torch.Tensor],
    tolerance: Callable[[torch.dtype], Tolerance],
) -> Contest:
    """A contest, without timing: torch's network and glide_fast's in each type, against torch's in fp32."""
    truth = run(plain(subject, work, torch.float32))
    contest = Contest(
        "accuracy",
        subject.name,
        what,
        work.device.type,
        truth=lambda: [truth],
        allowed=lambda dtype, errors: tolerance(dtype).allowed(errors[f"torch {short_name(dtype)}"]),
    )

    def ready(dtype: torch.dtype, ours: bool) -> Competitor:
        denoiser = bind(accelerated(subject, work, dtype), work) if ours else plain(subject, work, dtype)
        return Competitor(lambda: [run(denoiser)], None, dtype)

    for dtype in TYPES[work.device.type]:
        for name, ours in (("torch", False), (OURS, True)):
            contest.enter(f"{name} {short_name(dtype)}", functools.partial(ready, dtype, ours))
    return contest


def of_steps(subject: Subject, setting: Setting) -> list[Contest]:
    """Contests of single predictions, at several levels of noise."""
    work = Work(subject, None, torch.device(setting.device))

    def predict(row: int, denoiser: LoopDenoiser) -> torch.Tensor:
        rows = torch.full_like(work.rows, row)
        times = torch.full_like(work.rows, int(work.process.timestep_map[row]))
        inputs = denoiser.empty_inputs(work.batch, work.shape).copy_(work.x)
        with torch.inference_mode():
            return denoiser(inputs, times, rows).float()

    return [
        contest(
            subject,
            work,
            f"step at {level} of the noise",
            functools.partial(predict, int(level * (work.process.num_timesteps - 1))),
            lambda dtype: STEP,
        )
        for level in LEVELS
    ]


def of_loops(subject: Subject, setting: Setting) -> list[Contest]:
    """Contests of the pictures of a whole loop, from the same seeds."""
    steps, pictures = (2, 2) if setting.small else (LOOP_STEPS, LOOP_PICTURES)
    rows = pictures if subject.upsamples else 2 * pictures
    work = Work(subject, rows, torch.device(setting.device), steps)
    scale = 3.0 if work.guided else None

    def draw(denoiser: LoopDenoiser) -> torch.Tensor:
        return SamplingLoop(denoiser, work.process, work.seeds, work.shape, guidance_scale=scale).run()

    def tolerance(dtype: torch.dtype) -> Tolerance:
        return FP32_LOOP if dtype == torch.float32 else LOOP

    return [contest(subject, work, f"loop of {steps} steps", draw, tolerance)]


def run(name: str, contests: Callable[[Subject, Setting], list[Contest]], setting: Setting) -> Outcome:
    """Run the contests of each model; each has a row for torch and for glide_fast in each type."""
    exact_products()
    table = Table(setting.folder / "models.csv", ("case", *KEY), setting.facts)
    done = {row["model"] for row in table.rows if row["case"] == name}
    shipped = subjects((MODEL,)) if name == "accuracy-loops" and not setting.small else []
    left = ""
    for subject in (*shipped, *models(setting)):
        if subject.name in done and not setting.again:
            continue
        if setting.time_is_up:
            left = subject.name
            break
        for one in contests(subject, setting):
            table.add(*({"case": name} | row.row() for row in one.run(None)))
    rows = [row for row in table.rows if row["case"] == name and row["gate"] == "red"]
    wrong = [f"{row['model']}, {row['work']}: {row['contestant']}" for row in rows]
    return conclude(table.file, [one for one in wrong if OURS in one], left)


def same_picture(setting: Setting) -> Outcome:
    """Compare the shipped model's pictures on this device with those on a CPU from the same seeds."""
    exact_products()
    table = setting.table("same-picture", ("stage", "dtype"))
    options = {"num_inference_steps": 2, "upsample_steps": 2} if setting.small else {}
    prompts = list(PROMPTS[:1] if setting.small else PROMPTS)

    def draw(device: str, dtype: torch.dtype, accelerate: bool) -> dict[str, torch.Tensor]:
        pipe = GlidePipeline.from_pretrained(MODEL, device=device, dtype=dtype, accelerate=accelerate)
        out = pipe(prompts, seed=11, output_type="pt", progress=False, **options)  # type: ignore[arg-type]
        return {"base": out.low_res.cpu(), "upsampler": out.images.cpu()}  # type: ignore[union-attr]

    want = draw("cpu", torch.float32, False)
    # With few steps half precision gives different pictures, which are not wrong.
    for dtype in (torch.float32,) if setting.small else TYPES[setting.device]:
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
    steps = functools.partial(run, "accuracy-steps", of_steps)
    loops = functools.partial(run, "accuracy-loops", of_loops)
    return (
        Part("accuracy-steps", "error of a step in each type, beside torch's own", steps, 90, least=45),
        Part("accuracy-loops", f"the same of a loop of {LOOP_STEPS} steps", loops, 180, least=60),
        Part(
            "same-picture", "the shipped model's pictures against a CPU's of the same seeds", same_picture, 45
        ),
    )
