"""guided_step's Triton kernel: its checks, interpreted in a process of their own, and its machine code for real targets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
CHECKS = Path(__file__).resolve().parent / "check_guided_step.py"


def run_checks(**environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CHECKS)]
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        command, cwd=CHECKS.parents[2], env=inherited | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_in_the_interpreter() -> None:
    run_checks(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.gpu
def test_on_a_device() -> None:
    run_checks()


@pytest.mark.parametrize("target", [80, 90, 100])
def test_products_and_sums_are_rounded_one_by_one(target: int) -> None:
    from glide_fast.kernels import compile_report, guided_step

    for build in guided_step.default_builds():
        # Where noise is drawn, the logarithm of the device library has fused ones.
        assert (
            "seeds_ptr" in build.arguments
            or "fma.rn" not in compile_report.compiled(build, target).asm["ptx"]
        )
        assert compile_report.examine(build, target).registers <= 64, (
            "less than half of a multiprocessor's threads fit"
        )
