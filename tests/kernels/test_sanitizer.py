"""Every op's kernels under compute-sanitizer: accesses out of bounds, and races on shared memory.

`make gpu` makes all of GLIDE's calls at small sizes under it; here the first call of each op.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from benchmarks.gpu.part import GREEN, Setting
from benchmarks.gpu.parts import sanitizer
from glide_fast.ops.backends import ops

OPS = sorted(ops())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Future[dict[str, str]]]]:
    """What each tool finds in each op, all under way: one after the other they would take minutes to start."""
    program = sanitizer.find()
    if program is None:
        pytest.skip("no compute-sanitizer found (CUDA toolkit; set CUDA_HOME)")
    setting = Setting(device="cuda", folder=tmp_path_factory.mktemp("sanitizer"), facts={}, small=True)
    with ThreadPoolExecutor(len(OPS) * len(sanitizer.TOOLS)) as threads:
        yield {
            (tool, op): threads.submit(sanitizer.one, program, tool, op, setting)
            for tool in sanitizer.TOOLS
            for op in OPS
        }


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("tool", sanitizer.TOOLS)
def test_the_kernels_are_clean(
    tool: str, op: str, rows: dict[tuple[str, str], Future[dict[str, str]]]
) -> None:
    row = rows[tool, op].result()
    assert row["gate"] == GREEN, row["note"]
