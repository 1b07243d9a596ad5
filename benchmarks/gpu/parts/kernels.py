"""Compiles the Triton kernels of GLIDE's calls into Triton's cache, in several processes, before anything is timed.

``python -m benchmarks.gpu.parts.kernels --device cuda --share 0/8`` makes every eighth call once.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks import contests, suites
from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNFINISHED, Outcome, Part, Setting
from glide_fast import ops as public
from glide_fast.errors import BackendError
from glide_fast.ops.backends import force, ops

PROCESSES = 8
"""At most; each holds a context of its own on the device."""


def compile_share(device: str, share: int, of: int, small: bool) -> tuple[int, int]:
    """Make each ``of``-th call of those that Triton could serve; returns how many ran and how many Triton declined."""
    triton = [name for name in suites.found() if "triton" in ops()[name].names]
    calls = [size for name in triton for size in contests.sizes(name, device, quick=small, small=small)]
    ran = declined = 0
    for size in calls[share::of]:
        op = size.case.op
        try:
            with torch.inference_mode(), force(**{op: "triton"}):
                getattr(public, op)(**size.arguments())
            ran += 1
        except BackendError:
            declined += 1
    if device == "cuda":
        torch.cuda.synchronize()
    return ran, declined


def run(setting: Setting) -> Outcome:
    count = 2 if setting.small else min(PROCESSES, os.cpu_count() or 1)
    front = [sys.executable, "-m", "benchmarks.gpu.parts.kernels", "--device", setting.device]
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.parts.kernels", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every N-th call, from the I-th on")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    share, of = map(int, options.share.split("/"))
    ran, declined = compile_share(options.device, share, of, options.small)
    print(f"{ran} calls compiled or found in the cache, {declined} not for Triton")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
