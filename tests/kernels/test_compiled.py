"""The default configurations compile for every target, without a GPU, spill nothing and use tensor cores where they should."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from glide_fast.kernels import compile_report, text_attention
from glide_fast.kernels.compile_report import TARGETS, Row, default_builds, distinct, examine

BUILDS = distinct(default_builds())
PRODUCT = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("build", BUILDS, ids=lambda build: f"{build.kernel.__name__} {build.label}")
def test_default_configurations(build: compile_report.Build, target: int) -> None:
    row = examine(build, target)
    assert row.spill_instructions == 0, row
    assert row.shared_bytes <= compile_report.SHARED_PER_PROGRAM[target], row
    assert row.programs_per_multiprocessor >= 1, row
    if row.kernel in ("attend", "conv3x3"):
        assert PRODUCT[target] in row.tensor_cores.split(), row
    if row.kernel == "attend_masked":
        # Its tiles of 32 queries are too low for the products of a warp group.
        expected = PRODUCT[target] if build.constants["QUERIES"] >= 64 else "mma.sync"
        assert expected in row.tensor_cores.split(), row


def test_the_report_is_a_table_of_them(tmp_path: Path) -> None:
    file = tmp_path / "static" / "triton.csv"
    assert compile_report.write(file, compile_report.report(BUILDS[:1], (90,))) == 0
    with file.open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [row["target"] for row in rows] == ["sm_90"]
    assert set(rows[0]) == set(Row._fields) and int(rows[0]["registers"]) > 0


def test_a_spill_is_seen() -> None:
    """With tiles too large for their warps: otherwise the absence of spills would say nothing."""
    values = text_attention.constants(text_attention.Tiles(64, 32, 4, 1), 64, 1024, 0, 4)
    build = text_attention.builds(2, 6, 64, 1024, 0, "fp32")[0]
    large = build._replace(constants={**build.constants, **values}, warps=4)
    assert examine(large, 90).spill_instructions > 0
