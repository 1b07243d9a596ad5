"""Compiles the Triton kernels of GLIDE's calls into Triton's cache, in several processes, before anything is timed."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNFINISHED, Outcome, Part, Setting

PROCESSES = 8
"""The most processes; each needs memory for a CUDA context on the device."""


def run(setting: Setting) -> Outcome:
    count = 2 if setting.small else min(PROCESSES, os.cpu_count() or 1)
    front = [sys.executable, "-m", "benchmarks.gpu.compile_kernels", "--device", setting.device]
    front += ["--small"] * setting.small

    def share(number: int) -> command.Ran:
        return command.run(
            [*front, "--share", f"{number}/{count}"], setting.seconds_left, {"OMP_NUM_THREADS": "1"}
        )

    with ThreadPoolExecutor(count) as threads:
        found = list(threads.map(share, range(count)))
    if late := sum(ran.status is None for ran in found):
        return Outcome(UNFINISHED, notes=(f"{late} of {count} processes did not end",))
    failed = [ran.tail for ran in found if ran.status != 0]
    return Outcome(RED if failed else GREEN, notes=tuple(failed) or tuple(ran.tail for ran in found))


def parts(setting: Setting) -> tuple[Part, ...]:
    return (
        Part(
            "kernels",
            "the Triton kernels of GLIDE's calls, into Triton's cache",
            run,
            60,
            least=30,
            in_process=True,
        ),
    )
