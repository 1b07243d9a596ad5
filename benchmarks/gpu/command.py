"""Programs that a part runs: their output is shown as it comes and kept, and they end with their children when time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Ran(NamedTuple):
    """``status`` is None where the program was ended for its time."""

    status: int | None
    output: str

    @property
    def tail(self) -> str:
        """The last lines that say something."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-500:]


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a program in the repository's root for at most ``seconds``."""
    process = subprocess.Popen(
        list(command),
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:  # interrupted here
            os.killpg(process.pid, signal.SIGKILL)
    return Ran(None if late.is_set() else status, "".join(said))
