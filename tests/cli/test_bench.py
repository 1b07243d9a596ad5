"""``glide-fast bench``, ``profile`` and ``explain``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

Invoke = Callable[..., Result]
QUICK = ("--samples", 2, "--seconds", 0, "--device", "cpu", "--baselines", "eager")


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_step_on_screen_as_a_table_and_as_a_picture(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    files = ("--csv", "step.csv", "--plot", "step.png")
    done = invoke("bench", "step", "--model", model, *QUICK, "--dtype", "fp32", *files)
    assert done.exit_code == 0, done.output
    assert "step: tiny base, 2 x 16 px" in done.output and "reference eager" in done.output
    rows = read(tmp_path / "step.csv")
    assert [row["contestant"] for row in rows] == ["reference eager", "glide_fast"] * 2
    assert all(row["gate"] == "green" and float(row["value"]) > 0 for row in rows)
    assert all(row["device"] and row["torch"] and row["commit"] for row in rows)
    with Image.open(tmp_path / "step.png") as picture:
        assert picture.format == "PNG"


def test_several_parts_in_one_run(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    options = ("--steps", 2, "--csv", "all.csv")
    done = invoke("bench", "loop", "pipeline", "--model", model, *QUICK, *options)
    assert done.exit_code == 0, done.output
    assert {row["part"] for row in read(tmp_path / "all.csv")} == {"loop", "pipeline"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("speed",), "PART: got 'speed'; accepted: ops, step, loop"),
        (("step", "--model", "nowhere"), "nowhere"),
        (("step", "--baselines", "fastest"), "--baselines: got 'fastest'; accepted: default, all"),
        (("step", "--dtype", "fp16", "--device", "cpu"), "fp16 on a CPU"),
        (("step", "--device", "toaster"), "--device: got 'toaster'"),
        (("step", "--plot", "bars.txt"), "--plot: got 'bars.txt'"),
    ],
)
def test_bad_input_is_refused_before_any_work(invoke: Invoke, arguments: tuple[str, ...], said: str) -> None:
    done = invoke("bench", *arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_results_are_not_overwritten_unasked(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    done = invoke("bench", "step", "--model", model, *QUICK, "--csv", "old.csv")
    assert done.exit_code == 2 and (tmp_path / "old.csv").read_text() == "old"


def test_explain_names_backends_and_reasons(invoke: Invoke, model: Path) -> None:
    done = invoke("explain", "--model", model, "--device", "cpu", "--dtype", "fp32", "--batch", 4)
    assert done.exit_code == 0, done.output
    assert "tiny base: AcceleratedText2ImUNet, 4 x 16 px, float32 on cpu" in done.output
    assert "tiny upsampler: AcceleratedSuperResText2ImUNet, 4 x 32 px" in done.output
    assert "triton: the tensors are on cpu" in done.output


def test_profile_takes_a_step_apart(
    invoke: Invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glide_fast.bench import profiled

    monkeypatch.setattr(profiled, "COPY_MEGABYTES", 1)
    monkeypatch.setitem(profiled.ceilings.SIDES, "cpu", (64,))
    files = ("--trace", "step.json", "--csv", "step.csv")
    options = ("--samples", 2, "--rows", 3, "--device", "cpu", *files)
    done = invoke("profile", "--model", model, *options)
    assert done.exit_code == 0, done.output
    assert done.output.count("at the ceilings this step would take") == 2
    assert {row["model"].split(",")[0] for row in read(tmp_path / "step.csv")} == {
        "tiny base",
        "tiny upsampler",
    }
    for file in ("step.json", "step-2.json"):
        assert json.loads((tmp_path / file).read_text())["traceEvents"]
