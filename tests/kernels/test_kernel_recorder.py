"""What the tests on a device do before and while they run, without one: record launches, compile them, show failures at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from glide_fast.kernels import compile_ahead
from hypothesis import given, settings
from hypothesis import strategies as st
from support import kernel_recorder

pytest.importorskip("triton", reason="triton is not installed")
TESTS = Path(__file__).resolve().parents[1]


def test_what_a_file_launches_is_recorded_and_compiles(tmp_path: Path) -> None:
    record = kernel_recorder.record_of(TESTS / "ops" / "group_norm_act" / "check_layer_norm.py", tmp_path)
    found = kernel_recorder.read([record, record])
    # Two types times four widths, each with the cut of its own.
    assert len(found) == 8 and {one.kernel for one in found} == {"one_pass"}
    assert all('"arch": 90' in one.target for one in found)
    broken = found[1]._replace(data=found[1].data.replace('"*fp16"', '"*fp17"').replace('"*bf16"', '"*fp17"'))
    good, bad = sorted(compile_ahead.compile_all([found[0], broken], workers=1), key=lambda one: one.error)
    assert not good.error and good.configuration == found[0] and good.shared_bytes < 227 * 1024
    assert bad.configuration == broken and "fp17" in bad.error


def test_a_record_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)check_none\.py launches could not be recorded.*not found"):
        kernel_recorder.record_of(tmp_path / "check_none.py", tmp_path)


def test_a_recorded_run_draws_what_the_run_will_draw() -> None:
    seen: list[int] = []

    @settings(settings.get_profile("compiled_first"), max_examples=20)
    @given(value=st.integers())
    def draws(value: int) -> None:
        seen.append(value)

    draws()
    run = seen.copy()
    seen.clear()
    draws.hypothesis.inner_test = kernel_recorder.forgiving(draws.hypothesis.inner_test)
    draws()
    assert seen == run and len(set(run)) > 5


def test_a_failure_is_shown_when_it_happens(tmp_path: Path) -> None:
    file = tmp_path / "test_two.py"
    file.write_text("def test_one():\n    assert 0, 'the first'\ndef test_two():\n    print('the second')\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    done = subprocess.run(
        [*command, "-p", "support.failures_at_once", str(file)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    first, _, rest = done.stdout.partition("the second")
    assert "FAILED test_two.py::test_one (call)" in first and "the first" in first
    assert "1 failed, 1 passed" in rest  # and the summary ends it
