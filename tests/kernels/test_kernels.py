"""Runs the check_*.py files beside it, each in a process of its own: Triton decides once, when imported, whether to interpret.

On a device all that they launch is compiled first, on all cores; then the files run side by side, and failures are shown at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import kernel_recorder

pytest.importorskip("triton", reason="triton is not installed")
HERE = Path(__file__).resolve().parent
PATH = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
CHECKS = (
    "check_conv3x3.py",
    "check_group_norm_act.py",
    "check_guided_step.py",
    "check_layer_norm.py",
    "check_masked_attention.py",
    "check_resample.py",
    "check_text_attention.py",
)


def start(file: str, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(HERE / file)]
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


@pytest.mark.parametrize("file", CHECKS)
def test_in_the_interpreter(file: str) -> None:
    with start(file, "-x", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="") as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said[-8000:]


class Said(list[str]):
    """Lines of a process, shown as they come."""

    def __init__(self, terminal: Any) -> None:
        super().__init__()
        self._terminal, self._lock = terminal, threading.Lock()

    def __call__(self, line: str) -> None:
        self.append(line)
        if self._terminal is not None:
            with self._lock:
                self._terminal.write_line(line)
                self._terminal.flush()


@pytest.fixture(scope="module")
def on_a_device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[tuple[int, str]]]]:
    """The exit status and the output of each file, all under way."""
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    kernel_recorder.compile_first(
        [HERE / file for file in CHECKS], tmp_path_factory.mktemp("kernels"), Said(terminal)
    )

    def run(file: str) -> tuple[int, str]:
        said = Said(terminal)
        at_once = ("-p", "support.failures_at_once")
        with start(file, kernel_recorder.PROFILE, *at_once, PYTHONPATH=PATH) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said(f"{file}: {line.rstrip()}")
        return process.returncode, "\n".join(said)

    with ThreadPoolExecutor(len(CHECKS)) as threads:
        yield {file: threads.submit(run, file) for file in CHECKS}


@pytest.mark.gpu
@pytest.mark.parametrize("file", CHECKS)
def test_on_a_device(file: str, on_a_device: dict[str, Future[tuple[int, str]]]) -> None:
    status, said = on_a_device[file].result()
    assert status == 0, said[-6000:]
