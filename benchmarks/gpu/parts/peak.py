"""The peak memory of a step, without weights, at growing batches, and the batch that no longer fits."""

from __future__ import annotations

import gc

import torch

from benchmarks.gpu.part import Outcome, Part, Setting, conclude
from benchmarks.gpu.parts.loops import device_mib, models
from glide_fast.bench import baselines, contestants
from glide_fast.bench.contestants import Contestant
from glide_fast.bench.parts.step import OneStep
from glide_fast.bench.subject import Subject
from glide_fast.bench.work import Work
from glide_fast.runtime.precision import fastest_dtype

BATCHES = {"base": (2, 8, 32, 128, 256), "upsample": (1, 4, 8, 32, 64)}
WHO = ("eager", "eager-half", contestants.OURS)


def contestant(who: str, subject: Subject, work: Work) -> Contestant:
    """One of :data:`WHO`."""
    if who == contestants.OURS:
        return contestants.ours(subject, work, fastest_dtype(work.device))
    (one,) = baselines.chosen([who])
    return contestants.baseline(one, subject, work)


def peak(who: str, subject: Subject, batch: int, device: str) -> dict[str, str]:
    """MiB of the weights and of all that is computed before the loop, and the peak beyond them in a step. 0 on a CPU."""
    try:
        work = Work(subject, batch, torch.device(device))
        before = device_mib(device)[0]
        step = OneStep(contestant(who, subject, work), work)
        held = device_mib(device)[0]
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        finite = bool(step.predict().isfinite().all())
        most = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    except torch.OutOfMemoryError:
        return {"gate": "", "weights_mib": "", "step_mib": "", "note": "does not fit"}
    counted = device == "cuda"
    return {
        "gate": "green" if finite else "red",
        "weights_mib": f"{held - before:.1f}" if counted else "",
        "step_mib": f"{most - held:.1f}" if counted else "",
        "note": "" if finite else "not finite",
    }


def run(setting: Setting) -> Outcome:
    table = setting.table("peak", ("model", "batch", "contestant"))
    for subject in models(setting):
        for batch in BATCHES.get(subject.name, (1, 2)):
            for who in WHO:
                if table.find(subject.name, str(batch), who):
                    continue
                if setting.time_is_up:
                    return conclude(table.file, table.red(), f"{subject.name} {batch} {who}")
                row = peak(who, subject, batch, setting.device)
                gc.collect()
                if setting.device == "cuda":
                    torch.cuda.empty_cache()
                table.add({"model": subject.name, "batch": str(batch), "contestant": who} | row)
                print(f"{subject.name} {batch} {who}: {row['step_mib'] or '-'} MiB {row['note']}", flush=True)
    return conclude(table.file, table.red())


def parts(setting: Setting) -> tuple[Part, ...]:
    return (Part("peak", "the most memory of a step at rising batches", run, 120, least=45),)
