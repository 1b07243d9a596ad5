"""The machine code of the CUDA kernels: no kernel spills registers, on any target, here and in the reports that are kept."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from unittest import mock

import pytest

from benchmarks import static_cuda

KEPT = Path(static_cuda.__file__).parent / "results" / "static"

FULL = {"fp16": 8, "bf16": 8, "fp32": 4}
EXPECTED = {
    *((name, element, vector) for element, full in FULL.items() for name in ("statistics", "result spread", "result mean")
      for vector in (1, full)),
    *((name, element, full) for element, full in FULL.items() for name in
      ("result once", "one_pass shared once", "one_pass shared spread", "one_pass shared mean")),
    *((f"one_pass held {form}", element, 8) for element in ("fp16", "bf16") for form in ("once", "spread")),
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


def test_the_flags_of_each_source_are_those_that_setup_compiles_with(tmp_path: Path) -> None:
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(static_cuda.ROOT / "setup.py"))
    ninja = setup["NinjaFile"](tmp_path, tmp_path / "library.so", ["g++"])
    ninja.add_cuda("nvcc", ["g++"], ["90a"])
    ninja.write()
    ask = [setup["find_ninja"](), "-C", str(tmp_path), "-t", "commands"]
    said = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    # That of linking ends the list.
    lines = list(map(shlex.split, said.splitlines()[:-1]))
    commands = {
        Path(line[line.index("-c") + 1]).relative_to(static_cuda.CSRC).as_posix(): line for line in lines
    }
    assert commands.keys() == static_cuda.SOURCES.keys()
    for source, flags in static_cuda.SOURCES.items():
        own = tuple(part for part in commands[source] if part.startswith("-fmad"))
        assert own == flags, source


def fused_lines(flags: tuple[str, ...], tmp_path: Path) -> set[str]:
    """The lines of our sources from which guided_step's PTX has multiply-adds in fp32, or products that may become them.

    The assembler fuses what has no rounding of its own (``mul.f32`` instead of ``mul.rn.f32``).
    """
    code, source = tmp_path / "code.ptx", static_cuda.CSRC / "guided_step" / "cuda.cu"
    target = "-gencode=arch=compute_90a,code=compute_90a"
    command = (
        static_cuda.find("nvcc"),
        "-std=c++17",
        "-O3",
        "-lineinfo",
        target,
        "-ptx",
        *flags,
        f"-I{static_cuda.CSRC}",
    )
    static_cuda._output(*command, source, "-o", code)
    text = code.read_text(encoding="utf-8")
    files = dict(re.findall(r'^\s*\.file\s+(\d+) "([^"]+)"', text, re.MULTILINE))
    found, at = set(), ("", 0)
    for line in text.splitlines():
        if place := re.match(r"\s*\.loc\s+(\d+) (\d+)", line):
            at = (files[place[1]], int(place[2]))
        elif re.search(r"\bfma\.rn\.f32|\bmul\.f32", line):
            found.add(Path(at[0]).read_text(encoding="utf-8").splitlines()[at[1] - 1].strip())
    return found


def test_guided_step_fuses_no_product_with_a_sum_of_its_own(tmp_path: Path) -> None:
    """Its x0 would differ by 1e-3 from the reference's. What is left comes with the device's library of functions."""
    library = re.compile(r"\b(expf|logf|sincospif)\(")
    try:
        ours = fused_lines(static_cuda.SOURCES["guided_step/cuda.cu"], tmp_path)
        by_default = fused_lines((), tmp_path)
    except static_cuda.MissingTool as reason:
        pytest.skip(f"the CUDA kernels cannot be compiled here: {reason}")
    assert ours and all(library.search(line) for line in ours), ours
    assert any("row[Column::SQRT_RECIP] * x - " in line for line in by_default), by_default


def read(name: str) -> list[dict[str, str]]:
    with (KEPT / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_that_is_kept_covers_every_kernel_and_target() -> None:
    rows = read("cuda.csv")
    for target in ("sm_80", "sm_90a", "sm_100"):
        seen = {
            (row["kernel"], row["element"], int(row["vector"])) for row in rows if row["target"] == target
        }
        assert seen == {
            entry for entry in EXPECTED if target != "sm_80" or not entry[0].startswith("one_pass")
        }
    assert [row for row in rows if int(row["spill_instructions"]) or int(row["stack_bytes"])] == []


def test_spills_are_seen_in_a_disassembly() -> None:
    text = '\t.section .text.one,"ax"\n LDL R1\n STL.64 R2\n\t.section .text.two,"ax"\n LDG R1\n'
    assert static_cuda._spills(text) == {"one": 2, "two": 0}


def test_instructions_are_counted_in_a_disassembly() -> None:
    text = '\t.section .text.one,"ax"\n.L_1:\n        /*0000*/  LDG R1 ;\n        /*0010*/  EXIT ;\n'
    assert static_cuda._instructions(text) == {"one": 2}


def test_a_mangled_name_says_which_instance_a_kernel_is() -> None:
    start = "_ZN10glide_fast4cuda"
    assert static_cuda._entry(start + "8one_passI6__halfLi8ELb1ELNS0_4FormE0EEEvNS_12GroupNormActENS0_4PlanEf") == (
        "one_pass held once", "fp16", 8
    )  # fmt: skip
    assert static_cuda._entry(start + "6resultIfLi4ELNS0_4FormE2EEEvNS_12GroupNormActE") == (
        "result mean", "fp32", 4
    )  # fmt: skip
    assert static_cuda._entry(start + "10statisticsI13__nv_bfloat16Li1EEEvNS_12GroupNormActE") == (
        "statistics", "bf16", 1
    )  # fmt: skip


def kernel_row(kernel: str, target: str, registers: int) -> static_cuda.Row:
    return static_cuda.Row(kernel, "fp16", 8, target, registers, 0, 900, 0, 0, 512, 1, 0.25, "13.0", "")


def test_plans_fit_their_devices() -> None:
    """Of made-up registers, so that no nvcc is needed."""
    rows = [
        kernel_row(kernel, target, 100)
        for kernel in ("statistics", "result once")
        for target in ("sm_80", "sm_90a")
    ]
    rows += [kernel_row(f"one_pass {kept} once", "sm_90a", 110) for kept in ("held", "shared")]
    try:
        plans = list(static_cuda.plans(rows))
    except static_cuda.MissingTool as reason:
        pytest.skip(f"nothing here knows the plans: {reason}")
    assert len(plans) == 2 * len(static_cuda.glide_shapes()) > 100
    assert all(plan.blocks_per_multiprocessor >= 1 for plan in plans)
    assert {plan.kernels for plan in plans if plan.target == "sm_80"} == {"statistics, result once"}
    for plan in plans:
        if plan.target == "sm_90a" and json.loads(plan.shape)[-1] <= 64:
            assert plan.kernels.startswith("one_pass") and plan.cluster <= 16, plan


def test_the_plans_that_are_kept_cover_every_target() -> None:
    assert {row["target"] for row in read("cuda_plans.csv")} == {"sm_80", "sm_90a", "sm_100"}
