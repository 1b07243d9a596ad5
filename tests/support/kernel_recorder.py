"""Compiles in parallel, before a run of tests, the kernels that the tests launch; one after another that takes minutes.

`pytest --record-kernels FILE` (see conftest.py) runs tests in which no Triton kernel is launched: what would have been
compiled for it is written to FILE, a line a configuration. ``glide_fast.kernels.compile_ahead`` compiles these in processes, into
Triton's cache on the disk, where the run finds them. Neither needs a device: without one the target is that of an H100.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glide_fast.kernels.compile_ahead import Configuration

ROOT = Path(__file__).resolve().parents[2]
# Without assertions, so that a test goes on to its next launch although nothing has been computed.
RECORD = (sys.executable, "-O", "-m", "pytest", "--assert=plain", "-q", "-p", "no:cacheprovider")
PROFILE = "--hypothesis-profile=compiled_first"
"""For pytest, when recording and when running: both then draw the same examples. conftest.py describes it."""


def record(file: Path) -> None:
    """Stop this process from launching kernels, and add a line to ``file`` for each kernel that it would have compiled."""
    import torch
    from glide_fast.kernels import compile_ahead

    from glide_fast.ops import triton_runtime

    if not torch.cuda.is_available():
        compile_ahead.pretend(compile_ahead.H100)
        triton_runtime.why_not = lambda device, kernel: triton_runtime.load(kernel)[1]  # type: ignore[assignment]
    seen: set[Configuration] = set()
    file.touch()

    def keep(found: Configuration) -> None:
        if found not in seen:
            seen.add(found)
            with file.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(found) + "\n")

    compile_ahead.keep_in(keep)


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
    from glide_fast.kernels.compile_ahead import Configuration

    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(Configuration(*json.loads(line)) for line in lines))


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
    from glide_fast.kernels.compile_ahead import compile_all

    configurations, failed = read(files), 0
    say(f"compiling {len(configurations)} configurations of Triton kernels")
    for done in compile_all(configurations):
        if done.error:
            failed += 1
            say(f"{done.configuration.kernel} does not compile: {done.error}\n{done.configuration.data}")
    say(f"{len(configurations) - failed} compiled, {failed} failed")
    return len(configurations)
