"""Captured loops: whether pictures and memory stay the same over a thousand runs, and the cost of capturing."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.part import Outcome, Part, Setting, conclude
from benchmarks.gpu.tiny import pipeline
from glide_fast.bench.contestants import accelerated
from glide_fast.bench.subject import Subject, subjects
from glide_fast.bench.timing import Effort, interleaved
from glide_fast.bench.work import Work
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.runtime.captured import CapturedLoop
from glide_fast.runtime.model import Accelerated
from glide_fast.runtime.precision import fastest_dtype
from glide_fast.runtime.recording import CudaGraphs, Recorder, Recording

SOAK, CYCLES, STEPS = 1000, 50, 10
"""How many runs of a loop, how many captures and releases of one, and how many steps each loop has."""
NOTED = 50
"""Runs between two readings of the memory in use."""
DIFFERENT = 4
"""How many different runs (prompts, seeds, guidance) take turns."""
HOST_MIB = 64
"""MiB by which the process may grow on the host: allocators round up, and logs are kept."""


class Again:
    """A recorder for machines without CUDA graphs: a replay does the work again."""

    def record(self, work: Callable[[], object]) -> Recording:
        """Do the work, as a capture's warm-up would."""
        work()
        return _Work(work)


class _Work:
    def __init__(self, work: Callable[[], object]) -> None:
        self._work: Callable[[], object] | None = work

    def replay(self) -> None:
        assert self._work is not None
        self._work()

    def release(self) -> None:
        self._work = None


def recorder(device: str) -> Recorder:
    """The recorder for this device."""
    return CudaGraphs(torch.device(device)) if device == "cuda" else Again()


def models(setting: Setting) -> list[Subject]:
    """The released sizes, or tiny ones."""
    return subjects((str(pipeline(setting.folder / "tiny")),) if setting.small else ("base", "upsample"))


class Runs:
    """A captured loop of a model, and the values that differ between its runs."""

    def __init__(self, subject: Subject, setting: Setting, **options: Any) -> None:
        device = torch.device(setting.device)
        self.work = work = Work(subject, None, device, 2 if setting.small else STEPS)
        self.model: Accelerated = accelerated(subject, work, fastest_dtype(device))
        self.conditioning: list[dict[str, Any]] = []
        for variant in range(DIFFERENT):
            own: dict[str, Any] = {name: one * (1 - variant / 8) for name, one in work.pictures.items()}
            if work.tokens is not None:
                with torch.inference_mode():
                    own["text"] = self.model.encode_text(work.tokens.roll(variant, 1), work.mask)
            self.conditioning.append(own)
        bound = self.model.bind(work.process.timestep_map, work.batch, work.shape, **self.conditioning[0])
        loop = SamplingLoop(bound, work.process, work.seeds, work.shape, **self.values(0))
        self.loop = CapturedLoop(loop, recorder(setting.device), self.model.addresses, **options)

    def values(self, variant: int) -> dict[str, Any]:
        """Arguments of a loop that may change between runs."""
        return {"guidance_scale": 2.0 + variant} if self.work.guided else {}

    def run(self, variant: int) -> torch.Tensor:
        """The pictures of one variant."""
        self.loop.renew(self.conditioning[variant], self.work.seeds + 7 * variant, self.values(variant))
        return self.loop.run()


def resident_mib() -> float:
    """Memory of this process on the host, in MiB; 0 where the system does not report it."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0.0
    return int(line.split()[1]) / 1024


def device_mib(device: str) -> tuple[float, float]:
    """Allocated and reserved memory of a GPU, in MiB."""
    if device != "cuda":
        return 0.0, 0.0
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() / 2**20, torch.cuda.memory_reserved() / 2**20


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def soak(setting: Setting) -> Outcome:
    """Check that all runs of a variant give the same picture, bit for bit, and that memory stops growing after the first turn."""
    table = setting.table("soak", ("model", "loops"))
    total, noted = (2 * DIFFERENT, DIFFERENT) if setting.small else (SOAK, NOTED)
    for subject in models(setting):
        if table.find(subject.name, str(total)):
            continue
        runs = Runs(subject, setting)
        first = [runs.run(variant) for variant in range(DIFFERENT)]
        gc.collect()
        allocated, reserved = device_mib(setting.device)
        host = resident_mib()
        differing, start = 0, time.monotonic()
        for done in range(1, total + 1):
            variant = done % DIFFERENT
            differing += not torch.equal(runs.run(variant), first[variant])
            if done % noted and done != total:
                continue
            gc.collect()
            now = (*device_mib(setting.device), resident_mib())
            grown = [after - before for after, before in zip(now, (allocated, reserved, host), strict=True)]
            flat = max(grown[:2]) <= 0 and grown[2] <= HOST_MIB
            table.add(
                {
                    "model": subject.name,
                    "loops": str(done),
                    "steps": str(runs.loop.loop.total),
                    "gate": "green" if flat and not differing else "red",
                    "differing": str(differing),
                    "loops_per_s": f"{done / (time.monotonic() - start):.2f}",
                    "allocated_mib": f"{now[0]:.1f}",
                    "reserved_mib": f"{now[1]:.1f}",
                    "host_mib": f"{now[2]:.0f}",
                    "grown_mib": " ".join(f"{value:.1f}" for value in grown),
                }
            )
            if setting.time_is_up and done < total:
                return conclude(table.file, table.red(), f"{subject.name}, from its beginning")
        del runs, first
        print(f"{subject.name}: {total} loops, {differing} differing", flush=True)
    return conclude(table.file, table.red())


def capture(setting: Setting) -> Outcome:
    """Measure a capture, its replay beside the same loop launched step by step, and many captures one after another."""
    table = setting.table("capture", ("model", "what"))
    for subject in models(setting):
        for what, options in (("step", {}), ("whole loop", {"whole_loop": True})):
            if table.find(subject.name, what):
                continue
            if setting.time_is_up:
                return conclude(table.file, table.red(), f"{subject.name} {what}")
            row = captured_row(Runs(subject, setting, **options), setting)
            table.add({"model": subject.name, "what": what} | row)
            print(f"{subject.name} {what}: {row['capture_s']} s, {row['replay_s']} s a loop", flush=True)
    return conclude(table.file, table.red())


def captured_row(runs: Runs, setting: Setting) -> dict[str, str]:
    """Red where a replay's picture is not that of the launched loop, or captures leave memory behind."""
    device, cycles = setting.device, 3 if setting.small else CYCLES
    eager = CapturedLoop(runs.loop.loop, None)
    eager.renew(runs.conditioning[1], runs.work.seeds, runs.values(1))
    want = eager.run()
    launched = clocked(eager.run, device)
    before = device_mib(device)
    start = time.perf_counter()
    got = runs.loop.run()
    synchronise(device)
    first = time.perf_counter() - start
    held = device_mib(device)
    replay = clocked(runs.loop.run, device)
    runs.loop.release()
    same = torch.equal(got, want)
    runs.loop.run()
    runs.loop.release()
    gc.collect()
    settled = device_mib(device)
    for _ in range(cycles):
        runs.loop.run()
        runs.loop.release()
    gc.collect()
    after = device_mib(device)
    leaked = after[0] - settled[0]
    notes = ([] if same else ["the replay draws another picture"]) + (
        [f"{cycles} captures left {leaked:.1f} MiB"] if leaked > 0 else []
    )
    return {
        "gate": "red" if notes else "green",
        "steps": str(runs.loop.loop.total),
        "capture_s": f"{first - replay:.3f}",
        "replay_s": f"{replay:.5f}",
        "launched_s": f"{launched:.5f}",
        "capture_mib": f"{held[1] - before[1]:.1f}",
        "cycles": str(cycles),
        "leaked_mib": f"{leaked:.1f}",
        "note": "; ".join(notes),
    }


def clocked(call: Callable[[], object], device: str) -> float:
    """Median seconds of a call, by the wall clock."""
    return interleaved({"": call}, device, Effort.of_long_calls(5, 60.0), wall=True)[""].median / 1e6


def parts(setting: Setting) -> tuple[Part, ...]:
    return (
        Part(
            "capture", "what capturing a loop costs, and whether it is all given back", capture, 90, least=45
        ),
        Part("soak", f"{SOAK} loops of each model: the same pictures, the same memory", soak, 250),
    )
