"""``python -m glide_fast.tune.build``: makes each candidate of some calls once, so that Triton has compiled it when it is timed.

Triton keeps what it compiles on the disk. Recipes of calls come as lines of JSON on standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

import torch

from glide_fast.ops.backends import named
from glide_fast.tune.recipe import Recipe, arguments_from
from glide_fast.tune.tasks import checked

PROCESSES = 16
"""At most; each holds a context of its own on the device."""
COMPILED = "triton"


def compile_candidates(recipe: Recipe, device: str) -> int:
    """Run every candidate of a call that has to be compiled; returns how many ran."""
    op, ran = named(recipe["op"]), 0
    if COMPILED not in op.names:
        return 0
    backend, call = op.backend(COMPILED), checked(recipe["op"], arguments_from(recipe, device))
    if backend.supports(call.facts()) is not None:
        return 0
    for plan in [] if backend.plans is None else backend.plans(call):
        # One that does not compile says so again when it is to be timed, and is left out there.
        with contextlib.suppress(Exception), torch.inference_mode():
            backend.run(call, plan=plan)
            ran += 1
    return ran


def in_processes(recipes: Sequence[Recipe], device: str, seconds: float, processes: int = 0) -> list[str]:
    """Compile the candidates of these calls, each process some of the calls; returns what failed, in words."""
    count = min(processes or PROCESSES, os.cpu_count() or 1, len(recipes))
    command = [sys.executable, "-m", "glide_fast.tune.build", device]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLIDE_FAST_PLANS": "off"}
    running = []
    try:
        for number in range(count):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            running.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("".join(json.dumps(recipe) + "\n" for recipe in recipes[number::count]))
                process.stdin.close()
            process.stdin = None
        failed = []
        for process in running:
            try:
                _, said = process.communicate(timeout=max(1.0, seconds))
            except subprocess.TimeoutExpired:
                failed.append(f"compiling did not end in {seconds:.0f} s")
                continue
            if process.returncode:
                failed.append(said.strip().splitlines()[-1] if said.strip() else "no message")
        return failed
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def main(lines: Iterable[str], device: str) -> int:
    """Compile the candidates of the recipes in ``lines``; returns how many ran."""
    ran = sum(compile_candidates(json.loads(line), device) for line in lines if line.strip())
    if device == "cuda":
        torch.cuda.synchronize()
    return ran


if __name__ == "__main__":
    print(main(sys.stdin, sys.argv[1]))
