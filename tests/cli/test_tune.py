"""``glide-fast tune``: a file, what is done with it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from glide_fast.bench.timing import Effort
from glide_fast.ops.backends import plans_from
from glide_fast.plans import file, sources
from glide_fast.plans.device import Device
from glide_fast.tune import measure, run
from glide_fast.tune.measure import Efforts

Invoke = Callable[..., Result]
HERE = Device.of(torch.device("cpu"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    once = Effort(0, 1, 0.0, 0.0, 1)
    monkeypatch.setitem(measure.EFFORTS, "cpu", Efforts(once, once))


def test_a_models_calls_are_measured_once_and_then_used(
    invoke: Invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sources.source_of("guided_step", "cpu") is None:  # no library here, or one that does not say
        for module in (measure, run, sources):
            monkeypatch.setattr(module, "source_of", lambda op, backend: f"{op} {backend}")
        monkeypatch.setattr("glide_fast.plans.table.source_of", lambda op, backend: f"{op} {backend}")
    asked: tuple[Any, ...] = ("tune", "--device", "cpu", "--dtype", "fp32", "--model", model, "--batch", 2)
    ops = ("--op", "guided_step", "--op", "text_attention")
    done = invoke(*asked, *ops, "--out", "plans.json", "-q")
    assert done.exit_code == 0, done.output
    found = file.read(tmp_path / "plans.json")
    assert found.device == HERE and {row.op for row in found.rows} <= {"guided_step", "text_attention"}
    assert found.rows and f"{len(found.rows)} rows measured, 0 kept" in done.output
    assert "0 calls to go on with" in done.output and "by the rules" in done.output
    again = invoke(*asked, *ops, "--out", "plans.json", "-q")
    assert f"0 rows measured, {len(found.rows)} kept" in again.output

    with plans_from("plans.json"):
        said = invoke("explain", "--model", model, "--device", "cpu", "--dtype", "fp32", "--batch", 2)
        env = invoke("env")
    assert f"plans.json: {len(found.rows)} of {len(found.rows)} rows are used" in said.output, said.output
    assert "guided_step: " in said.output and "measured: " in said.output
    assert f"plans.json: {len(found.rows)} of {len(found.rows)} rows are used" in env.output


def test_without_time_nothing_is_measured(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke(
        "tune", "--minutes", 0, "--op", "masked_attention", "--device", "cpu", "--out", "x/plans.json", "-q"
    )
    assert done.exit_code == 0, done.output
    assert "6 calls to go on with" in done.output and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--op", "sums"), "--op: got 'sums'; accepted: convolution, "),
        (("--batch", 2), "--batch: got 2; accepted: a batch with --model"),
        (("--device", "toaster"), "--device: got 'toaster'"),
        (("--out", "hostile.json"), "--out: got 'hostile.json'; accepted: a file that glide-fast tune wrote"),
        (("--out", "other.json"), "--out: got 'other.json'; accepted: a new file, or one of this device"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_what_is_refused(invoke: Invoke, tmp_path: Path, arguments: tuple[Any, ...], said: str) -> None:
    (tmp_path / "hostile.json").write_text('{"format": 1, "rows": [NaN]}')
    file.write(tmp_path / "other.json", file.PlanFile(HERE._replace(threads=99), {}, ()))
    done = invoke("tune", *(arguments if "--device" in arguments else (*arguments, "--device", "cpu")))
    assert done.exit_code == 2 and said in done.output, done.output
