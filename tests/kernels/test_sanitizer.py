"""Every op's kernels under compute-sanitizer: accesses out of bounds, and races on shared memory.

`make gpu` runs all of benchmarks/gpu/probes.py under it; here the first probe of each op does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu.part import GREEN, Setting
from benchmarks.gpu.parts import sanitizer
from benchmarks.gpu.probes import PROBES


@pytest.mark.gpu
@pytest.mark.parametrize("op", sorted({probe.op for probe in PROBES}))
@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_the_kernels_are_clean(tool: str, op: str, tmp_path: Path) -> None:
    program = sanitizer.find()
    if program is None:
        pytest.skip("no compute-sanitizer found (CUDA toolkit; set CUDA_HOME)")
    row = sanitizer.one(program, tool, op, Setting(device="cuda", folder=tmp_path, facts={}, small=True))
    assert row["state"] == GREEN, row["notes"]
