"""What every test shares: `gpu` tests skip themselves without a device, and hypothesis does not time its examples.

`--record-kernels` writes down which Triton kernels the tests would launch (tests/support/kernel_recorder.py).
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

# Test processes share cores, and so do the programs that tests start: threads that spin while they wait would take them from
# the others. Read when torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Which backend runs must not depend on what somebody measured on this machine.
os.environ.setdefault("GLIDE_FAST_PLANS", "off")

import pytest
import torch
from hypothesis import Phase, settings
from support import kernel_recorder

# Small models gain nothing from threads and lose much where two test processes share two cores.
torch.set_num_threads(1)

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("glide_fast", deadline=None)
# For kernels that are compiled before they are run: the same examples each time, and no search for smaller ones, which
# would each be compiled by itself.
settings.register_profile(
    "compiled_first", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("glide_fast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-kernels", type=Path, help="launch no Triton kernel, write which ones to this file"
    )


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("record_kernels"):
        kernel_recorder.record(file)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    if not pyfuncitem.config.getoption("record_kernels"):
        return (yield)
    try:
        return (yield)
    except Exception:
        return True


def pytest_collection_finish() -> None:
    """What is there before the first test stays: otherwise each ``gc.collect()`` looks through torch and all tests."""
    gc.collect()
    gc.freeze()


SLOWEST = (
    "ops/test_triton.py",
    "packaging/test_install.py",
    "diffusion/test_golden.py",
    "benchmarks/test_gpu.py",
    "train/test_resume.py",
    "test_full_size.py",
)
"""Files of tests that take tens of seconds: several processes begin with them, so that none of them runs on alone at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        first = [Path(__file__).parent / name for name in SLOWEST]
        items.sort(key=lambda item: first.index(item.path) if item.path in first else len(first))
    if config.getoption("record_kernels"):
        for item in items:
            drawn = getattr(getattr(item, "obj", None), "hypothesis", None)
            if drawn is not None:
                drawn.inner_test = kernel_recorder.forgiving(drawn.inner_test)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch finds none here"))
