"""The default configurations compile for every target, without a GPU, spill nothing and use tensor cores where they should."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from glide_fast.kernels import compile_report, convolution, group_norm_act, text_attention
from glide_fast.kernels.compile_report import TARGETS, Row, default_builds, distinct, examine
from glide_fast.kernels.occupancy import DEVICES

BUILDS = distinct(default_builds())
KEPT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "static"
SPILLS = {
    ("statistics", "[2, 384, 1024] fp16, no FiLM, no SiLU, residual, x_bias, sum", 80): 2,
    ("normalise", "[1, 192, 65536] fp16, no FiLM, residual, x_bias", 100): 2,
}
"""ptxas keeps eight bytes on the stack in these, with smaller tiles at 40 registers too: not for want of registers."""
PRODUCT = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}


FIRST = {build.kernel.__name__: build for build in reversed(BUILDS)}
COMPILED = [
    pytest.param(build, target, id=f"{build.kernel.__name__} {build.label}-{target}")
    for build in BUILDS
    for target in TARGETS
    if target == 90 or build == FIRST[build.kernel.__name__]
]
"""For an H100 all; for the others, whose compilations take minutes, one of each kernel: the kept report has them all."""


@pytest.mark.parametrize(("build", "target"), COMPILED)
def test_default_configurations(build: compile_report.Build, target: int) -> None:
    row = examine(build, target)
    assert row.spill_instructions <= SPILLS.get((row.kernel, row.configuration, target), 0), row
    assert row.shared_bytes <= DEVICES[target].shared_of_a_block, row
    assert row.programs_per_multiprocessor >= 1, row
    if row.kernel == "multiply_pixels":
        assert row.tensor_cores, row
    if row.kernel in ("attend", "conv3x3"):
        assert PRODUCT[target] in row.tensor_cores.split(), row
    if row.kernel == "attend_masked":
        # Its tiles of 32 queries are too low for the products of a warp group.
        expected = PRODUCT[target] if build.constants["QUERIES"] >= 64 else "mma.sync"
        assert expected in row.tensor_cores.split(), row


@pytest.mark.parametrize("target", [90, 100])
def test_a_convolution_by_descriptors_fetches_by_tma(target: int) -> None:
    (build,) = convolution.descriptor_builds(2, 8, 768, 768)
    assert build in convolution.shipped_builds()
    row = examine(build, target)
    assert row.spill_instructions == 0 and PRODUCT[target] in row.tensor_cores.split()
    assert "cp.async.bulk.tensor.4d" in compile_report.compiled(build, target).asm["ptx"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_layer_norms_of_the_encoders(target: int) -> None:
    shipped = compile_report.shipped_builds()
    for rows, width in group_norm_act.LAYER_NORMS:
        (build,) = group_norm_act.builds(rows, 1, width, 1, options=group_norm_act.LAYER_NORM)
        assert build in shipped
        assert examine(build, target).spill_instructions == 0


def test_the_report_is_a_table_of_them(tmp_path: Path) -> None:
    file = tmp_path / "static" / "triton.csv"
    module = ("-m", "glide_fast.kernels.compile_report", "--out", str(file))
    subprocess.run([sys.executable, *module, "--kernel", "statistics", "--target", "90"], check=True)
    with file.open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert {(row["kernel"], row["target"]) for row in rows} == {("statistics", "sm_90")}
    assert len(rows) == len([build for build in BUILDS if build.kernel.__name__ == "statistics"])
    assert set(rows[0]) == set(Row._fields) and int(rows[0]["registers"]) > 0


def test_what_does_not_compile_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the command that CI runs ends with 1 then."""
    (build, *_) = (build for build in BUILDS if build.kernel.__name__ == "add_splits")
    assert compile_report.why_not(build, 90) == ""
    broken = build._replace(constants={**build.constants, "PIXELS": 3})  # not a power of two
    reason = compile_report.why_not(broken, 90)
    assert reason.startswith(f"add_splits {build.label} for sm_90: ") and "power of 2" in reason

    monkeypatch.setattr(
        sys, "argv", ["compile_report", "--check", "--kernel", "add_splits", "--target", "90"]
    )
    assert compile_report.main() == 0
    count = len([build for build in BUILDS if build.kernel.__name__ == "add_splits"])
    assert f"{count} of {count} configurations compile" in capfd.readouterr().out


def test_the_reports_that_are_kept_cover_them() -> None:
    """And whatever else of GLIDE's shapes spills, no default configuration does, but for those of :data:`SPILLS`."""
    wanted = {(build.kernel.__name__, build.label, f"sm_{target}") for build in BUILDS for target in TARGETS}
    with (KEPT / "triton.csv").open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    assert {(row["kernel"], row["configuration"], row["target"]) for row in rows} == wanted
    spilling = {
        (row["kernel"], row["configuration"], int(row["target"][3:]))
        for row in rows
        if row["spill_instructions"] != "0"
    }
    assert spilling <= set(SPILLS)
    assert all(row["commit"] and not row["commit"].endswith("+") for row in rows)


def test_every_file_of_kernels_lists_what_it_compiles() -> None:
    listed = {module.__name__.rpartition(".")[2] for module in compile_report.kernel_modules()}
    folder = Path(compile_report.__file__).parent
    files = {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    assert {name for name, text in files.items() if "tl.program_id(" in text} == listed


def test_a_spill_is_seen() -> None:
    """With tiles too large for their warps: otherwise the absence of spills would say nothing."""
    values = text_attention.constants(text_attention.Tiles(64, 32, 4, 1), 64, 1024, 0, 4)
    build = text_attention.builds(2, 6, 64, 1024, 0, "fp32")[0]
    large = build._replace(constants={**build.constants, **values}, warps=4)
    row = examine(large, 90)
    assert row.spill_instructions > 0 and row.stack_bytes > 0


@pytest.mark.parametrize("target", TARGETS)
def test_without_a_stack_there_is_no_access_to_thread_local_memory(target: int, tmp_path: Path) -> None:
    """Which is why only what has a stack is disassembled."""
    build = max(BUILDS, key=lambda build: examine(build, target).registers)
    assert examine(build, target).stack_bytes == 0
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compile_report.compiled(build, target).asm["cubin"])
    assert compile_report.local_accesses(cubin) == 0


@pytest.mark.parametrize("name", ["triton.csv", "triton-all.csv"])
def test_what_spills_has_a_stack_in_the_reports_that_are_kept(name: str) -> None:
    with (KEPT / name).open(newline="", encoding="utf-8") as source:
        for row in csv.DictReader(source):
            assert (int(row["stack_bytes"]) > 0) == (int(row["spill_instructions"]) > 0), row
