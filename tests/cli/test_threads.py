"""How the threads of OpenMP wait in the processes of the command line and of the benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import glide_fast

ROOT = Path(glide_fast.__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="what libgomp prints")
@pytest.mark.parametrize(
    ("start", "given", "policy"),
    [
        (["-c", "from glide_fast.cli import main; main()", "env"], {}, "PASSIVE"),
        (["-m", "glide_fast", "env"], {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        # What measures waits as what is measured does.
        (["-m", "benchmarks", "--help"], {}, "PASSIVE"),
        (["-m", "benchmarks.gpu", "--help"], {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
    ],
)
def test_they_do_not_spin_unless_asked_to(
    tmp_path: Path, start: list[str], given: dict[str, str], policy: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, *start],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "true"} | given,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    # Each copy of the library that is loaded, by torch or by our kernels, says what it goes by.
    assert set(re.findall(r"OMP_WAIT_POLICY = '(\w+)'", done.stderr)) == {policy}
