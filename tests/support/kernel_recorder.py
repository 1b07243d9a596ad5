"""Compiles in parallel, before a run of tests, the kernels that the tests launch; one after another that takes minutes.

`pytest --record-kernels FILE` (see conftest.py) runs tests in which no Triton kernel is launched: what would have been
compiled for it is written to FILE, a line a configuration. :func:`compile_all` compiles these in processes, into Triton's cache
on the disk, where the run finds them. Neither needs a device: without one the target is that of an H100.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# Without assertions, so that a test goes on to its next launch although nothing has been computed.
RECORD = (sys.executable, "-O", "-m", "pytest", "--assert=plain", "-q", "-p", "no:cacheprovider")
PROFILE = "--hypothesis-profile=compiled_first"
"""For pytest, when recording and when running: both then draw the same examples. conftest.py describes it."""
WITHOUT_A_DEVICE = {"backend": "cuda", "arch": 90, "warp_size": 32}


class Configuration(NamedTuple):
    """One specialisation of a kernel: what Triton's own ``JITFunction.preload`` compiles again."""

    module: str
    kernel: str
    data: str  # JSON, as Triton writes it
    target: str  # the fields of a GPUTarget, as JSON


class Compiled(NamedTuple):
    """``error`` is empty where it compiled."""

    configuration: Configuration
    shared_bytes: int = 0
    error: str = ""


class _NoDevice:
    """Triton's driver for a target that need not be here."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def _pretend(fields: dict[str, Any]) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    driver.set_active(_NoDevice(GPUTarget(**fields)))


def record(file: Path) -> None:
    """Stop this process from launching kernels, and add a line to ``file`` for each kernel that it would have compiled."""
    import torch
    from triton import knobs
    from triton.runtime import driver

    from glide_fast.ops import triton_runtime

    if not torch.cuda.is_available():
        _pretend(WITHOUT_A_DEVICE)
        triton_runtime.why_not = lambda device, kernel: triton_runtime.load(kernel)[1]  # type: ignore[assignment]
    target = json.dumps(vars(driver.active.get_current_target()))
    seen: set[Configuration] = set()
    file.touch()

    def keep(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        found = Configuration(fn.module, fn.name, compile["specialization_data"], target)
        if found not in seen:
            seen.add(found)
            with file.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(found) + "\n")
        return True  # that is, do not compile: the call then returns without a launch

    knobs.runtime.jit_cache_hook = keep


def forgiving(test: Callable[..., Any]) -> Callable[..., Any]:
    """``test`` without its errors: it runs only for its launches, and no kernel computes its result."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            test(*args, **kwargs)
        except Exception:
            return

    return run


def read(files: Iterable[Path]) -> list[Configuration]:
    """The configurations that :func:`record` wrote, without repetitions."""
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(Configuration(*json.loads(line)) for line in lines))


def _compile(configuration: Configuration) -> Compiled:
    try:
        _pretend(json.loads(configuration.target))
        kernel = getattr(importlib.import_module(configuration.module), configuration.kernel)
        return Compiled(configuration, kernel.preload(configuration.data).metadata.shared)
    except Exception as error:
        return Compiled(configuration, error=f"{type(error).__name__}: {error}")


def compile_all(configurations: list[Configuration], workers: int = 0) -> Iterator[Compiled]:
    """Compile on ``workers`` processes (0: one for each core that this process may use); yields results as they are done."""
    workers = workers or len(os.sched_getaffinity(0))
    # New processes, since a fork of a process that has used a device cannot use it.
    with ProcessPoolExecutor(min(workers, max(1, len(configurations))), get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_compile, configuration) for configuration in configurations]):
            yield done.result()


def record_of(tests: Path, folder: Path) -> Path:
    """Run :func:`record` on a file of tests, in a new process."""
    file = folder / f"{tests.parent.name}-{tests.stem}.jsonl"
    command = [*RECORD, PROFILE, f"--record-kernels={file}", str(tests)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"what {tests.name} launches could not be recorded:\n{done.stdout[-4000:]}")
    return file


def compile_first(tests: list[Path], folder: Path, say: Callable[[str], object]) -> int:
    """Compile all kernels that these files launch; prints each that does not compile at once, and returns their number."""
    with ThreadPoolExecutor(len(tests)) as threads:
        files = list(threads.map(lambda one: record_of(one, folder), tests))
    configurations, failed = read(files), 0
    say(f"compiling {len(configurations)} configurations of Triton kernels")
    for done in compile_all(configurations):
        if done.error:
            failed += 1
            say(f"{done.configuration.kernel} does not compile: {done.error}\n{done.configuration.data}")
    say(f"{len(configurations) - failed} compiled, {failed} failed")
    return len(configurations)
