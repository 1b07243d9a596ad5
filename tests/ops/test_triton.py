"""Runs the check_*.py files of every op in other processes: Triton decides once, when imported, whether to interpret.

In the interpreter one process runs them all. On a device all that they launch is compiled first, on all cores; then the files
run side by side, and failures are shown at once.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from support import kernel_recorder

pytest.importorskip("triton", reason="triton is not installed")
HERE = Path(__file__).resolve().parent
PATH = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
CHECKS = sorted(str(file.relative_to(HERE)) for file in HERE.rglob("check_*.py"))


def start(files: Sequence[str], *options: str, **environment: str) -> subprocess.Popen[str]:
    paths = [str(HERE / file) for file in files]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *paths]
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.Popen(
        command,
        cwd=HERE.parents[1],
        env=inherited | environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def test_in_the_interpreter() -> None:
    with start(CHECKS, "--tb=short", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="") as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said[-8000:]


class Runs:
    """The files on a device, all under way; what they print is shown by whoever waits for one of them."""

    def __init__(self, capture: Any, threads: ThreadPoolExecutor) -> None:
        self._capture = capture
        self._lines: Queue[str] = Queue()
        self._runs = {file: threads.submit(self._run, file) for file in CHECKS}

    def _run(self, file: str) -> tuple[int, str]:
        said: list[str] = []
        options = (kernel_recorder.PROFILE, "--tb=short", "-p", "support.failures_at_once")
        with start([file], *options, PYTHONPATH=PATH) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                self._lines.put(f"{file}: {line.rstrip()}")
        return process.returncode, "".join(said)

    def wait(self, file: str) -> tuple[int, str]:
        """The exit status and the output of one file."""
        with shown(self._capture):
            while not self._runs[file].done() or not self._lines.empty():
                with suppress(Empty):
                    print(self._lines.get(timeout=0.1), flush=True)
        return self._runs[file].result()


def shown(capture: Any) -> AbstractContextManager[None]:
    """What is printed here is seen at once, instead of after the test. For the main thread: pytest's capture is one for all."""
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()


@pytest.fixture(scope="module")
def on_a_device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with shown(capture):
        say = functools.partial(print, flush=True)
        kernel_recorder.compile_first(
            [HERE / file for file in CHECKS], tmp_path_factory.mktemp("record"), say
        )
    with ThreadPoolExecutor(len(CHECKS)) as threads:
        yield Runs(capture, threads)


@pytest.mark.gpu
@pytest.mark.parametrize("file", CHECKS)
def test_on_a_device(file: str, on_a_device: Runs) -> None:
    status, said = on_a_device.wait(file)
    assert status == 0, said[-6000:]
