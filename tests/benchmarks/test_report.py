"""The report: tables out of results files, and nothing that no file has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.report import EAGER, FROZEN, OURS, STRONG, TABLES, Device, devices, filled
from glide_fast.bench.measurement import Measurement
from glide_fast.bench.record import Row, write

CPU: Row = {"when": "2030-01-01", "device": "A CPU", "threads": "2", "torch": "2.13", "commit": "abc"}
H200: Row = CPU | {"device": "NVIDIA H200", "when": "2030-01-02"}


def measured(
    part: str, work: str, values: dict[str, float | None], model: str = "base", **more: Any
) -> list[Row]:
    return [
        Measurement(part, model, work, name, value, **(more if name == OURS else {})).row()
        for name, value in values.items()
    ]


def results(tmp_path: Path, facts: Row, files: dict[str, list[Row]]) -> list[Device]:
    for name, rows in files.items():
        write(tmp_path / facts["device"] / f"{name}.csv", [facts | row for row in rows])
    return devices(tmp_path)


def row_of(table: str, start: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_results_everything_is_unmeasured(tmp_path: Path) -> None:
    assert devices(tmp_path / "none") == [] == devices(tmp_path)
    for name, table in TABLES.items():
        text = table([])
        assert report.UNMEASURED in text, name
        assert not any(
            character.isdigit() and f"{character}x |" in text for character in text if name != "targets"
        )


def test_speeds_are_ratios_within_a_comparison(tmp_path: Path) -> None:
    step = [{"case": "base 2"} | row for row in measured("step", "2 x 64 px", {EAGER: 4.0, OURS: 1.0})] + [
        {"case": "base 2 compiled"} | row
        for row in measured("step", "2 x 64 px", {EAGER: 8.0, STRONG: 6.0, OURS: 2.0})
    ]
    known = results(tmp_path, H200, {"step": step})
    table = report.speeds(known)
    assert "**NVIDIA H200**, torch 2.13, commit abc" in table and report.UNMEASURED not in table
    # Six seconds are three times the two of its own comparison, not six times the one of another.
    assert row_of(table, "base") == ["base, 2 x 64 px", "1 s", "4.00x", "3.00x"]
    targets = report.targets(known)
    assert row_of(targets, "NVIDIA GPU | base step at 2 over reference eager")[3:] == ["4x", "no"]
    assert row_of(targets, "NVIDIA GPU | base step at 2 over torch.compile, strong")[3:] == ["3x", "yes"]
    assert row_of(targets, "CPU | base step at 2 over frozen")[3:] == [report.UNMEASURED, "-"]


def test_a_wrong_result_has_no_speed(tmp_path: Path) -> None:
    rows = measured("step", "2 x 64 px", {FROZEN: 4.0, OURS: 1.0}, error=0.5, allowed=0.1)
    known = results(tmp_path, CPU, {"step": rows})
    assert row_of(report.speeds(known), "base, 2 x 64 px | ref") == ["base, 2 x 64 px", "refused"]
    assert row_of(report.targets(known), "CPU | base step at 2 over frozen")[3] == report.UNMEASURED


def test_a_cpu_beside_the_gpu_that_is_not_there(tmp_path: Path) -> None:
    known = results(tmp_path, CPU, {"any-name": measured("step", "2 x 64 px", {FROZEN: 1.5, OURS: 1.0})})
    table = report.speeds(known)
    assert table.index("**NVIDIA GPU**") < table.index("**A CPU**, 2 threads")
    assert row_of(table, "upsample, 8")[1] == report.UNMEASURED
    assert "over frozen Inductor" in table and "over OpenVINO" not in table
    assert row_of(report.targets(known), "CPU | base step at 2 over frozen")[3:] == ["1.5x", "yes"]


def test_memory_and_start(tmp_path: Path) -> None:
    both = "base + upsample"
    memory = measured("memory", "peak", {"official style": 1000.0, OURS: 550.0}, both)
    for row in memory:
        row["unit"] = "MiB"
    start = measured("cold-start", "ready to sample", {EAGER: 9.0, OURS: 16.0}, both)
    known = results(tmp_path, CPU, {"memory": memory, "cold-start": start})
    targets = report.targets(known)
    assert row_of(targets, "CPU | peak memory")[3:] == ["55 %", "yes"]
    assert row_of(targets, "CPU | ready")[3:] == ["16 s", "no"]
    assert row_of(TABLES["memory"](known), both) == ["base + upsample, peak", "550.0 MiB", "1000.0 MiB"]


def test_ablation_is_time_more(tmp_path: Path) -> None:
    values = {OURS: 2.0, f"{OURS}, norms in plain torch": 3.0, f"{OURS}, weights not packed": None}
    known = results(tmp_path, CPU, {"ablation": measured("step", "2 x 64 px", values)})
    table = report.ablation(known)
    assert row_of(table, "norms in plain torch") == ["norms in plain torch", "+50%"]
    assert "weights not packed" not in table


def profiled(op: str, seconds: float, flops: float, least: float) -> Row:
    return {
        "model": "base, 2 x 64 px, float16 on cuda",
        "op": op,
        "seconds": str(seconds),
        "share": str(seconds / 4),
        "flops": str(flops),
        "least_seconds": str(least),
        "of_ceiling": "",
        "step_seconds": "4",
    }


def test_rooflines(tmp_path: Path) -> None:
    rows = [profiled("convolution", 2, 100, 1), profiled("group_norm_act", 1, 1, 0.5)]
    known = results(tmp_path, H200, {"profile": rows})
    cells = row_of(report.rooflines(known), "base")
    assert cells[1:3] == ["4 s", "38%"]
    assert cells[3] == "convolution 50% at 50%, group_norm_act 25% at 50%, everything else 25%"
    # 100 FLOPs in 4 s, of a peak of 100 FLOPs in 1 s.
    assert row_of(report.targets(known), "NVIDIA GPU | convolution")[3:] == ["25 %", "no"]


def test_errors_stand_beside_torchs_own(tmp_path: Path) -> None:
    rows = []
    for name, error in (("torch float16", 0.002), (f"{OURS} float16", 0.001), (f"{OURS} float32", 1e-6)):
        rows.append(Measurement("accuracy", "base", "step at 0.5 of the noise", name, error=error).row())
    table = report.accuracy(results(tmp_path, H200, {"models": rows}))
    assert row_of(table, "base, step at 0.5 of the noise | float16")[2:] == ["0.001", "0.002"]
    assert row_of(table, "base, step at 0.5 of the noise | float32")[2:] == ["1e-06", ""]


def test_files_are_filled_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in report.FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n<!-- table: targets -->\nold\n<!-- end of table -->\nb\n")
    options = ["--root", str(tmp_path), "--results", str(tmp_path / "results")]
    assert report.main([*options, "--check"]) == 1
    assert "old" in (tmp_path / "README.md").read_text()
    assert report.main(options) == 0
    text = (tmp_path / "docs/explanation/performance.md").read_text()
    assert text.startswith("a\n<!-- table: targets -->\n\n| on |") and text.endswith(
        "<!-- end of table -->\nb\n"
    )
    assert report.main([*options, "--check"]) == 0
    assert "nothing changes" in capsys.readouterr().out
    with pytest.raises(KeyError):
        filled("<!-- table: nonsense -->\n<!-- end of table -->", [])


def test_what_is_committed_is_what_the_results_say() -> None:
    assert report.main(["--check"]) == 0
