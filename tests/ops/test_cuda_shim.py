"""The shim finds the mistakes that it is there to find, whichever way the threads run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import cuda_host


def run(program: Path, name: str, backwards: bool) -> str:
    return cuda_host.run(program, name, {}, (), backwards=backwards)[0].strip()


TOTAL = str(4 * sum(range(96)))


@pytest.mark.parametrize("backwards", [False, True])
def test_right_code_runs(cuda_program: Path, backwards: bool) -> None:
    assert run(cuda_program, "right", backwards) == " ".join([TOTAL] * 4)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("missing_thread", "deadlock: 4 threads have ended, 380 wait at __syncthreads"),
        (
            "mismatch",
            "deadlock: 0 threads have ended, 128 wait at __syncthreads, 256 wait at a cluster's barrier",
        ),
        ("out_of_bounds", "heap-buffer-overflow"),
        ("left_early", "that block has left"),
        ("early", "a thread did not wait for earlier kernels"),
    ],
)
def test_mistakes_are_errors(cuda_program: Path, mistake: str, message: str, backwards: bool) -> None:
    with pytest.raises(cuda_host.Failed, match=message):
        run(cuda_program, mistake, backwards)


def test_division_by_a_product(cuda_program: Path) -> None:
    assert run(cuda_program, "divide", False) == ""


def test_a_race_shows_when_the_order_of_threads_changes(cuda_program: Path) -> None:
    assert run(cuda_program, "race", False) != run(cuda_program, "race", True)
