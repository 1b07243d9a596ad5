"""The benchmarks' plumbing at tiny sizes: the gate, the turns, the files. No times are judged."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import ceilings, record
from benchmarks.case import COPY, PLAIN, Case, error, measure
from benchmarks.suites import group_norm_act, guided_step, text_attention
from benchmarks.timing import Effort, interleaved, summarise

TINY = Effort(warm=1, samples=3, sample_seconds=0.0)


def case(**contestants: Callable[[], list[torch.Tensor]]) -> Case:
    x = torch.linspace(-1, 1, 32)
    return Case(
        op="guided_step",
        model="base",
        shape="32",
        dtype=torch.float32,
        device="cpu",
        truth=lambda: [x.double().exp()],
        baselines={PLAIN: lambda: [x.exp()]},
        contestants=dict(contestants),
        moved_bytes=256,
        flops=32,
    )


def right() -> list[torch.Tensor]:
    return [torch.linspace(-1, 1, 32).exp()]


def wrong() -> list[torch.Tensor]:
    return [torch.linspace(-1, 1, 32).exp() + 1e-3]


def test_no_speed_up_is_told_of_a_wrong_result() -> None:
    results = {result.contestant: result for result in measure(case(right=right, wrong=wrong), TINY)}
    assert results["right"].gate == "green" and results["right"].speedup is not None
    assert results["wrong"].gate == "red" and results["wrong"].speedup is None
    assert results[COPY].gate == "-" and results[COPY].speedup is None
    table = record.rows(case(), list(results.values()))
    assert {row["contestant"]: row["speedup"] for row in table}["wrong"] == "refused"


@pytest.mark.parametrize("bad", [torch.full((32,), torch.nan), torch.ones(31), torch.full((32,), torch.inf)])
def test_nan_infinity_and_wrong_shapes_are_red(bad: torch.Tensor) -> None:
    results = {result.contestant: result for result in measure(case(bad=lambda: [bad]), TINY)}
    assert results["bad"].gate == "red"


def test_a_wrong_baseline_excuses_nobody() -> None:
    made = case(wrong=wrong)
    made.baselines[PLAIN] = wrong
    results = {result.contestant: result for result in measure(made, TINY)}
    assert results[PLAIN].gate == results["wrong"].gate == "red"
    assert all(result.speedup is None for result in results.values())


def test_a_missing_output_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        error([], right())


def test_contestants_take_turns() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    timings = interleaved(calls, "cpu", TINY)
    assert {timing.samples for timing in timings.values()} == {3}
    rounds = seen[-9:]
    assert all(set(rounds[i : i + 3]) == set("abc") for i in (0, 3, 6))


def test_the_summary() -> None:
    timing = summarise([5e-6, 1e-6, 3e-6, 2e-6, 4e-6])
    assert timing == pytest.approx((3.0, 2.0, 4.0, 1.0, 5))


def test_ceilings() -> None:
    limits = ceilings.measured("cpu", TINY, megabytes=1, side=16)
    assert set(limits) == {"copy", "gemm bfloat16", "gemm float32", "empty call"}
    assert all(value > 0 for value, _ in limits.values())


@pytest.mark.parametrize(
    "made",
    [
        lambda: group_norm_act.case("base", 1, 4, 64, "cpu", False),
        lambda: text_attention.case("base", 1, 4, 1, "cpu", False),
        lambda: guided_step.case("base", 1, 8, False, "cpu", False),
        lambda: guided_step.case("base", 2, 8, True, "cpu", False),
        lambda: guided_step.case("upsampler", 1, 8, False, "cpu", False),
    ],
)
def test_every_suite_is_green_at_a_tiny_size(made: Callable[[], Case]) -> None:
    built = made()
    results = measure(built, TINY)
    assert {result.contestant for result in results} >= {PLAIN, COPY}
    assert all(result.gate != "red" for result in results), [(r.contestant, r.error) for r in results]
    assert "triton" in built.declined or torch.cuda.is_available()


def test_what_does_not_compile_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler itself takes a minute to load; it raises where its result is first called, as this does.
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: call)

    def broken() -> list[torch.Tensor]:
        raise RuntimeError("no such thing")

    made = case()
    made.add_compiled("torch.compile", broken)
    assert "no such thing" in made.declined["torch.compile"]
    assert "torch.compile" not in made.contestants


def test_suites_cover_both_models() -> None:
    for suite in command.SUITES.values():
        built = list(suite.cases("cpu", False, True))
        assert {made.model for made in built} == {"base", "upsampler"}


def test_the_command_records_what_it_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        command, "SUITES", {"guided_step": SimpleNamespace(cases=lambda *_: [case(right=right)])}
    )
    arguments = ["--device", "cpu", "--quick", "--no-compile", "--op", "guided_step", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert "right" in capsys.readouterr().out
    with (tmp_path / "guided_step.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["contestant"] for row in rows} == {PLAIN, "right", COPY}
    for column in (
        "when",
        "device",
        "threads",
        "python",
        "torch",
        "commit",
        "median_us",
        "q1_us",
        "q3_us",
        "gate",
    ):
        assert all(row[column] for row in rows), column
    assert (tmp_path / "ceilings.csv").exists()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".csv"]

    monkeypatch.setattr(
        command, "SUITES", {"guided_step": SimpleNamespace(cases=lambda *_: [case(wrong=wrong)])}
    )
    assert command.main(arguments) == 1
    assert "refused" in capsys.readouterr().out


def test_folders_are_named_after_devices() -> None:
    assert record.slug("NVIDIA H200 (MIG 1g.18gb)") == "nvidia-h200-mig-1g-18gb"
    assert record.slug(record.device_name("cpu"))
