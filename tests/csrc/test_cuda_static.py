"""The machine code of csrc/cuda: no kernel spills registers, on any target, here and in the report that is kept."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "benchmarks" / "results" / "static" / "cuda.csv"
_spec = importlib.util.spec_from_file_location("static_cuda", ROOT / "benchmarks" / "static_cuda.py")
assert _spec is not None and _spec.loader is not None
static_cuda = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(static_cuda)

EXPECTED = {
    *((name, element, vector) for name in ("statistics", "result") for element, vector in
      (("fp16", 1), ("bf16", 1), ("fp32", 1), ("fp16", 8), ("bf16", 8), ("fp32", 4))),
    *(("one_pass", element, vector) for element, vector in (("fp16", 8), ("bf16", 8), ("fp32", 4))),
    ("guided_step", "any", 4),
}  # fmt: skip


def test_no_kernel_spills_when_compiled_for_hopper() -> None:
    try:
        rows = list(static_cuda.report(("90a",)))
    except static_cuda.MissingTool as reason:
        pytest.skip(f"the CUDA kernels cannot be compiled here: {reason}")
    assert {(row.kernel, row.element, row.vector) for row in rows} == EXPECTED
    assert [row for row in rows if row.spill_instructions or row.stack_bytes] == []
    # 65536 registers in a multiprocessor: what 512 and 256 threads may have for at least one and two blocks.
    assert all(row.registers <= 128 for row in rows)


def test_the_report_that_is_kept_covers_every_kernel_and_target() -> None:
    with REPORT.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for target in ("sm_80", "sm_90a", "sm_100"):
        seen = {
            (row["kernel"], row["element"], int(row["vector"])) for row in rows if row["target"] == target
        }
        assert seen == {entry for entry in EXPECTED if target != "sm_80" or entry[0] != "one_pass"}
    assert [row for row in rows if int(row["spill_instructions"]) or int(row["stack_bytes"])] == []


def test_spills_are_seen_in_a_disassembly() -> None:
    text = '\t.section .text.one,"ax"\n LDL R1\n STL.64 R2\n\t.section .text.two,"ax"\n LDG R1\n'
    assert static_cuda._spills(text) == {"one": 2, "two": 0}
