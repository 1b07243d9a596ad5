"""Runs the check_*.py files beside it, each in a process of its own: Triton decides once, when imported, whether to interpret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKS = (
    "check_conv3x3.py",
    "check_group_norm_act.py",
    "check_layer_norm.py",
    "check_masked_attention.py",
    "check_resample.py",
    "check_text_attention.py",
)


def run_checks(file: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / file)]
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        command, cwd=HERE.parents[1], env=inherited | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


@pytest.mark.parametrize("file", CHECKS)
def test_in_the_interpreter(file: str) -> None:
    run_checks(file, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.gpu
@pytest.mark.parametrize("file", CHECKS)
def test_on_a_device(file: str) -> None:
    run_checks(file)
