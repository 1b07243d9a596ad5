"""Ctrl-C and SIGTERM, delivered at chosen moments of a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import glide_fast

ROOT = Path(glide_fast.__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# Runs before the program, as every module called sitecustomize does; sends the signal when the program imports MODULE.
AT_IMPORT = """
import os, signal, sys
# A process started in the background of a script may ignore Ctrl-C, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
def hook(event, arguments):
    if event == "import" and arguments[0] == os.environ["MODULE"]:
        os.kill(os.getpid(), int(os.environ["NUMBER"]))
sys.addaudithook(hook)
"""


def run(tmp_path: Path, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("module", "number", "code", "line"),
    [
        # Reading the program; typer; a command's arguments; the middle of loading torch, where C++ imports numpy; our models.
        ("glide_fast.cli.commands", signal.SIGINT, 130, "interrupted"),
        ("typer.core", signal.SIGINT, 130, "interrupted"),
        ("typer.core", signal.SIGTERM, 143, "terminated"),
        ("torch", signal.SIGINT, 130, "interrupted"),
        ("numpy", signal.SIGINT, 130, "interrupted"),
        ("glide_fast.pipelines.stage", signal.SIGTERM, 143, "terminated"),
    ],
)
def test_while_the_program_starts(tmp_path: Path, module: str, number: int, code: int, line: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT)
    before = sorted(os.listdir(tmp_path))
    done = run(
        tmp_path,
        ["-m", "glide_fast", "sample", "a red cube", "--device", "cpu", "--steps", "1", "-q"],
        MODULE=module,
        NUMBER=str(int(number)),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{line}\n")
    assert sorted(os.listdir(tmp_path)) == before


WORK = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from glide_fast.cli import signals
sys.modules["torch"] = os  # as if it were loaded
signals.install()

def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(10)
"""


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        # In a destructor, from which no exception gets out.
        (
            "class Thing:\n    def __del__(self):\n        send()\n"
            "try:\n    with signals.work():\n        Thing()\n        time.sleep(10)\n"
            "except KeyboardInterrupt:\n    print(signals.ending())\n",
            "(130, 'interrupted')\n",
        ),
        # Swallowed by a library, which goes on or fails for want of what it did not do.
        (
            "try:\n    with signals.work():\n        try:\n            send(signal.SIGTERM)\n        except:\n            pass\n"
            "except KeyboardInterrupt:\n    print(signals.ending())\n",
            "(143, 'terminated')\n",
        ),
        (
            "try:\n    with signals.work():\n        try:\n            send()\n        except:\n            raise ImportError\n"
            "except KeyboardInterrupt:\n    print(signals.ending())\n",
            "(130, 'interrupted')\n",
        ),
        # Without a signal all is as it was.
        (
            "try:\n    with signals.work():\n        raise ValueError\n"
            "except ValueError:\n    print(signals.ending())\n",
            "(130, 'interrupted')\n",
        ),
    ],
)
def test_one_that_is_swallowed_comes_again(tmp_path: Path, body: str, shown: str) -> None:
    done = run(tmp_path, ["-c", WORK + body])
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_one_after_the_work_ends_the_process_at_once(tmp_path: Path) -> None:
    done = run(tmp_path, ["-c", WORK + "with signals.work():\n    pass\nsend()\n"])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_what_the_process_ignores_stays_ignored(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from glide_fast.cli import signals\n"
        "signals.install()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)\n"
    )
    done = run(tmp_path, ["-c", script])
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["env"]])
def test_a_reader_that_has_gone_ends_with_1_and_without_a_word(tmp_path: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process: Any = subprocess.run(
        [sys.executable, "-m", "glide_fast", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, "")
