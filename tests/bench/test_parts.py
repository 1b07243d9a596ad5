"""Every part of the benchmarks on a small pipeline: who competes, what is compared, what is refused. No times are judged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_unets import tiny_model

from glide_fast.bench import contestants, fresh, gate
from glide_fast.bench.baselines import BASELINES, chosen
from glide_fast.bench.contest import OURS, Unable
from glide_fast.bench.contestants import ABLATIONS
from glide_fast.bench.measurement import Measurement, quantity, table
from glide_fast.bench.parts import PARTS, measure, quality, step
from glide_fast.bench.parts import ops as ops_part
from glide_fast.bench.settings import Settings
from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject, random_model, subjects
from glide_fast.bench.timing import Effort, interleaved
from glide_fast.bench.work import Work
from glide_fast.errors import InvalidInputError
from glide_fast.models.config import complete
from glide_fast.ops import guided_step
from glide_fast.ops.backends import Backend, Choice, force, listen, ops
from glide_fast.ops.guided_step import Column, Step

CPU = torch.device("cpu")


def of(part: str, settings: Settings) -> list[Measurement]:
    return list(measure(part, settings))


def test_stock_models_predict_the_same_with_none_of_our_ops(kind: str) -> None:
    from support.small_unets import call_arguments, states

    model, arguments = tiny_model(kind), call_arguments(kind)
    called: list[Choice] = []
    with torch.no_grad():
        want = model(states(), torch.tensor([3, 700]), **arguments)
        for tuned in (False, True):
            other = stock(model, dtype=torch.float32, device=CPU, tuned=tuned)
            with listen(called.append):
                got = other(states(), torch.tensor([3, 700]), **arguments)
            torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    assert not called


def test_stock_models_leave_the_plain_one_alone() -> None:
    model = tiny_model("base")
    types = {name: (type(p), p.dtype, p.stride()) for name, p in model.named_parameters()}
    stock(model, dtype=torch.bfloat16, device=CPU, tuned=True)
    assert types == {name: (type(p), p.dtype, p.stride()) for name, p in model.named_parameters()}
    assert not any("Released" in type(m).__name__ for m in model.modules())


def test_random_models_keep_activations_of_order_one(model: str) -> None:
    options = complete(subjects([model])[0].options)
    made = Subject("random", random_model(options), options)
    work = Work(made, 2, CPU)
    truth = gate.Gate(made, work).truth
    assert 0.1 < truth.std() < 10
    again = random_model(options)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), again.parameters(), strict=True))


def test_the_step_is_compared_with_torchs(settings: Settings) -> None:
    rows = of("step", settings)
    assert {row.model for row in rows} == {"tiny base", "tiny upsampler"}
    for name in ("tiny base", "tiny upsampler"):
        found = {row.contestant: row for row in rows if row.model == name}
        assert set(found) == {made.title for made in BASELINES if not made.asked} | {OURS}
        assert found["reference eager"].speedup == 1.0
        assert found[OURS].gate == "green" and found[OURS].speedup is not None
        assert found["official package"].value is None and "glide_text2im" in found["official package"].note


def test_a_wrong_step_is_told_no_speed_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.OneStep, "predict", lambda self: self._work.x.repeat(1, 2, 1, 1) * 2)
    for row in of("step", settings):
        assert row.value is None or (row.gate == "red" and row.speedup is None)
        assert row.value is None or row.row()["speedup"] == "refused"


def test_nan_passes_no_gate() -> None:
    nan = torch.full((2,), torch.nan)
    assert gate.error(nan, torch.ones(2)) == gate.error(torch.ones(3), torch.ones(2)) == float("inf")
    assert gate.STEP.allowed(float("inf")) == 1e-4
    assert Measurement("step", "m", "w", "c", 1.0, error=float("inf"), allowed=1.0).gate == "red"


def test_each_ablation_is_a_row_or_says_why_not(settings: Settings) -> None:
    asked = dataclasses.replace(settings, ablate=True, baselines=("none",))
    rows = {(row.model, row.contestant): row for row in of("step", asked)}
    for name in (ablation.name for ablation in ABLATIONS):
        for model in ("tiny base", "tiny upsampler"):
            row = rows[model, f"{OURS}, {name}"]
            assert row.gate == "green" or row.note
    assert rows["tiny base", f"{OURS}, low-res picture read at each step"].note == (
        "this model reads no picture beside x"
    )
    assert rows["tiny upsampler", f"{OURS}, low-res picture read at each step"].value is not None


def test_loops_end_at_fp32s_picture(settings: Settings) -> None:
    rows = {(row.model, row.contestant): row for row in of("loop", settings)}
    assert rows["tiny base", OURS].work == "1 x 16 px, 2 ddpm steps"
    for model in ("tiny base", "tiny upsampler"):
        assert rows[model, OURS].gate == rows[model, "reference eager"].gate == "green"


def test_a_pipeline_makes_its_picture(settings: Settings) -> None:
    rows = of("pipeline", settings)
    assert [row.contestant for row in rows] == ["reference eager, text encoded once", OURS]
    assert all(row.work == "1 x 32 px, 2 steps a stage" and row.value for row in rows)
    assert rows[1].gate == "green"


def test_every_op_call_of_a_step_is_timed(settings: Settings) -> None:
    rows = of("ops", settings)
    calls = [row.work for row in rows if row.contestant == "plain torch"]
    assert len(calls) > 20 and any(work.startswith("text_attention 2x2 heads of 16") for work in calls)
    assert [row for row in rows if row.value is not None and row.gate != "green"] == []
    assert any("chosen" in row.note for row in rows)


def test_a_backend_that_leaves_another_ones_results_where_it_should_write_is_caught(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    op = ops()["guided_step"]
    idle = Backend("idle", lambda facts: None, lambda facts: None, lambda call: call.empty_result())
    monkeypatch.setattr(op, "_backends", [idle, *op._backends])
    monkeypatch.setattr(op, "_choices", {})
    calls: list[Choice] = []
    state = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    with listen(calls.append), force(guided_step="reference"):
        guided_step(
            state,
            torch.ones(1, 6, 4, 4),
            torch.ones(2, Column.COUNT),
            torch.tensor(1),
            out=Step.like(state, None),
        )
    rows = {row.contestant: row for row in ops_part.of_call("base", calls[0], 1, settings)}
    assert rows[f"{OURS} idle"].gate == "red" and rows[f"{OURS} idle"].speedup is None
    assert rows[f"{OURS} cpu"].gate == rows["plain torch"].gate == "green"


def test_a_fresh_process_tells_its_phases_and_memory(settings: Settings) -> None:
    asked = dataclasses.replace(settings, samples=2, baselines=("none",))
    rows = of("cold-start", asked)
    names = [row.work for row in rows]
    assert names == [
        "start of Python",
        "imports",
        "weights loaded",
        "ready to sample",
        "first step",
        "first picture (2 steps a stage)",
    ]
    values = [row.value or 0.0 for row in rows]
    assert values == sorted(values) and values[0] > 0
    (row,) = of("memory", asked)
    assert row.unit == "MiB" and (row.value or 0) > 50


def test_a_fresh_process_makes_more_pictures_in_an_environment_of_its_own(settings: Settings) -> None:
    answer = fresh.run(
        settings.models[0], settings, fast=True, environment={"OMP_WAIT_POLICY": "ACTIVE"}, pictures=2
    )
    assert answer["waiting"] == "ACTIVE"
    assert len(answer["pictures"]) == 2 and min(answer["pictures"]) > 0


def test_threads_that_sleep_and_threads_that_spin_take_turns(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(name: str, settings: Settings, **options: Any) -> dict[str, Any]:
        asked.append(options["environment"]["OMP_WAIT_POLICY"])
        assert options["fast"] and options["pictures"] == 3 and settings.steps == 2
        return {"pictures": [2.0, 2.0, 2.0] if asked[-1] == "ACTIVE" else [4.0, 2.5, 2.5]}

    monkeypatch.setattr(fresh, "run", run)
    rows = of("waiting", settings)
    assert asked == ["ACTIVE", "PASSIVE", "PASSIVE", "ACTIVE"]
    assert [row.contestant for row in rows] == ["OMP_WAIT_POLICY=ACTIVE", "OMP_WAIT_POLICY=PASSIVE"]
    assert [(row.value, row.speedup, row.samples) for row in rows] == [(2.0, 1.0, 6), (2.5, 0.8, 6)]
    assert {row.work for row in rows} == {"a picture, 2 steps a stage"}
    monkeypatch.setattr(Settings, "target_device", torch.device("cuda"))
    with pytest.raises(InvalidInputError, match="device: got 'cuda'; accepted: cpu for the part waiting"):
        of("waiting", settings)


def test_cheaper_steps_are_told_with_their_difference(settings: Settings) -> None:
    asked = dataclasses.replace(settings, steps=None)
    rows = {row.contestant: row for row in of("quality", asked)}
    assert set(rows) == {quality.FULL, *(way for way, _ in quality.FAST)}
    assert all(("PSNR" in row.note) is (way != quality.FULL) for way, row in rows.items())
    half = torch.full((1, 3, 4, 4), 0.5)
    assert quality.psnr(half, half + 0.1) == pytest.approx(20)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="baselines: got 'fastest'"):
        chosen(["fastest"])
    with pytest.raises(InvalidInputError, match="no directory"):
        subjects(["nowhere"])
    assert [made.name for made in chosen(["eager", "openvino"])] == ["eager", "openvino"]
    assert chosen(["none"]) == [] and len(chosen(["all"])) == len(BASELINES)
    assert len(PARTS) == 8


def test_compiled_baselines_say_where_they_cannot_run(model: str) -> None:
    subject = subjects([model])[0]
    work = Work(subject, None, CPU)
    (strong,) = chosen(["compile-strong"])
    with pytest.raises(Unable, match="need a GPU"):
        contestants.baseline(strong, subject, work)


def test_long_calls_are_samples_of_their_own() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    assert interleaved(calls, "cpu", Effort.of_long_calls(3, 60.0), wall=True)["a"].samples == 3
    assert [sorted(seen[i : i + 2]) for i in (0, 2, 4)] == [["a", "b"]] * 3 and len(seen) == 6
    assert interleaved(calls, "cpu", Effort.of_long_calls(3, 0.0), wall=True)["b"].samples == 1


def test_the_table_is_for_people() -> None:
    rows = [
        Measurement("step", "base", "2 x 64 px", "eager", 1.5, lower=1.4, upper=1.6, samples=3, speedup=1.0),
        Measurement(
            "step", "base", "2 x 64 px", "fast", 0.5, samples=1, speedup=3.0, error=2e-3, allowed=1e-3
        ),
        Measurement("step", "base", "2 x 64 px", "absent", note="is not installed"),
    ]
    assert table(rows).splitlines() == [
        "step: base, 2 x 64 px",
        "  eager       1.5 s  (1.4 s to 1.6 s)  1.00x",
        "  fast       500 ms  speed-up refused: error 0.002, allowed 0.001",
        "  absent  is not installed",
    ]
    assert [quantity(v, "s") for v in (123.0, 0.0015, 2e-6)] == ["123 s", "1.5 ms", "2 us"]
    assert quantity(12.34, "MiB") == "12.3 MiB"


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    from glide_fast.bench.plot import check, draw

    rows = [
        Measurement("step", "base", "2 x 64 px", name, value).row()
        for name, value in (("eager", 2.0), (OURS, 0.5), ("absent", None))
    ]
    check(tmp_path / "bars.png")
    assert draw(rows, tmp_path / "bars.png") and not draw(rows[:1], tmp_path / "alone.png")
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(1 << 20) or ()) > 10
    with pytest.raises(InvalidInputError, match=r"\.png, \.svg, \.pdf"):
        check(tmp_path / "bars.txt")
