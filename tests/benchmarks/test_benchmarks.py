"""The benchmarks' plumbing at tiny sizes: the gate, the turns, the files. No times are judged."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import folders, record
from benchmarks.case import COPY, PLAIN, Case, error, measure
from benchmarks.ops import run_suite
from benchmarks.suites import group_norm_act, guided_step, masked_attention, resample, text_attention
from glide_fast.bench import ceilings, provenance, timing
from glide_fast.bench.timing import QUEUE, Effort, interleaved, summarise

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
    summary = summarise([5e-6, 1e-6, 3e-6, 2e-6, 4e-6], [7e-6, 6e-6, 9e-6])
    assert summary == pytest.approx((3.0, 2.0, 4.0, 1.0, 5, 7.0))
    assert summarise([1e-6, 2e-6]).from_python is None


def test_rounds_end_when_their_time_is_up_but_not_before_the_least() -> None:
    effort = TINY._replace(samples=1000, seconds=0.0, least=4)
    assert interleaved({"a": lambda: None}, "cpu", effort)["a"].samples == 4


def test_a_slow_call_is_warm_after_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    timing.warm_up(lambda: seen.append(0), 5, "cpu")
    assert len(seen) == 5
    monkeypatch.setattr(timing, "WARM_SECONDS", -1.0)
    timing.warm_up(lambda: seen.append(0), 5, "cpu")
    assert len(seen) == 6


def test_on_a_device_calls_are_queued_behind_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of one stream, whose clock is this test's: a call takes it 3 us, and Python takes longer to launch one."""
    now, waits, launches = [0.0], [], []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now[0]

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: Event) -> float:
            return (other.at - self.at) * 1e3

    def sleep(cycles: int) -> None:
        waits.append(cycles)
        now[0] += cycles / 2e9

    def call() -> None:
        now[0] += 3e-6
        if launches:
            launches[-1] += 1

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: launches.append(0))
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    timing.cycles_a_second.cache_clear()
    try:
        assert timing.cycles_a_second() == pytest.approx(2e9)
        found = interleaved({"a": call}, "cuda", TINY._replace(samples=5, sample_seconds=1e-3))["a"]
    finally:
        timing.cycles_a_second.cache_clear()
    assert found.median == pytest.approx(3.0) and found.from_python == pytest.approx(3.0)
    assert max(launches) == QUEUE
    assert all(wait > 1e-4 * 2e9 for wait in waits[-5:])

    # A chain of so many launches that a stream would not queue 32 of it.
    monkeypatch.setattr(timing, "on_host", lambda call, repeats: 6e-4)
    timing.cycles_a_second.cache_clear()
    launches.clear()
    interleaved({"a": call}, "cuda", TINY._replace(samples=5, sample_seconds=1e-3))
    timing.cycles_a_second.cache_clear()
    assert max(launches) == 6
    assert all(wait == pytest.approx((1.5 * 6 * 6e-4 + 1e-4) * 2e9, rel=1e-6) for wait in waits[-5:])


def test_ceilings() -> None:
    limits = ceilings.measured("cpu", TINY, megabytes=1, sides=(16, 32))
    kinds = {name.split(",")[0] for name in limits}
    assert kinds == {"copy", "clone", "gemm bfloat16", "gemm float32", "empty call"}
    assert all(value > 0 for value, _ in limits.values())


@pytest.mark.parametrize(
    "made",
    [
        lambda: group_norm_act.case("base", 1, 4, 64, "cpu", False),
        lambda: text_attention.case("base", 1, 4, 1, "cpu", False),
        lambda: resample.case("base", 1, 4, 64, "mean_2x2", True, "cpu", False),
        lambda: resample.case("base", 2, 4, 16, "nearest_x2", False, "cpu", False),
        lambda: masked_attention.case("clip text", 2, 16, 1, True, "cpu", False),
        lambda: masked_attention.case("clip image", 2, 5, 1, False, "cpu", False),
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
    assert "glide_fast triton" in built.declined or torch.cuda.is_available()


def test_what_does_not_compile_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler itself takes a minute to load; it raises where its result is first called, as this does.
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: call)

    def broken() -> list[torch.Tensor]:
        raise RuntimeError("no such thing")

    made = case()
    made.add_compiled("torch.compile", broken)
    assert "torch.compile" in made.names
    made.prepare()
    assert "no such thing" in made.declined["torch.compile"]
    assert "torch.compile" not in made.contestants


def test_a_crash_of_ours_is_red_and_stops_nobody(tmp_path: Path) -> None:
    def crash() -> list[torch.Tensor]:
        raise RuntimeError("an illegal access\nsomewhere")

    made = case(right=right)
    made.add_backends(crash)
    facts = provenance.provenance("cpu")
    done = run_suite([made], TINY, facts, tmp_path / "op.csv")
    assert done.measured == 1 and len(done.red) == len(made.crashed) > 0
    rows = {row["contestant"]: row for row in record.read(tmp_path / "op.csv")}
    assert rows["right"]["gate"] == "green" and rows["glide_fast cpu"]["speedup"] == "refused"
    assert rows["glide_fast cpu"]["note"] == "RuntimeError: an illegal access somewhere"
    again = case(right=right)
    again.add_backends(crash)
    assert run_suite([again], TINY, facts, tmp_path / "op.csv") == done._replace(measured=0, kept=1)


def test_suites_cover_both_models() -> None:
    for name, suite in command.SUITES.items():
        built = list(suite.cases("cpu", False, True))
        both = {"clip text", "clip image"} if name == "masked_attention" else {"base", "upsampler"}
        assert {made.model for made in built} == both


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
    out = capsys.readouterr().out
    assert "refused" in out and "WRONG" in out
    # Kept from the file, and as wrong as before.
    assert command.main(arguments) == 1
    out = capsys.readouterr().out
    assert "0 cases measured, 1 kept" in out and "WRONG" in out


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cases(*_: object) -> list[Case]:
        made = [case(right=right) for _ in range(3)]
        for each, shape in zip(made, ("2x8", "8x8", "32x8"), strict=True):
            each.shape = shape
        return made

    monkeypatch.setattr(command, "SUITES", {"guided_step": SimpleNamespace(cases=cases)})
    base = ["--device", "cpu", "--quick", "--no-compile", "--op", "guided_step", "--out", str(tmp_path)]

    def run(*more: str) -> tuple[int, str]:
        status = command.main([*base, *more])
        return status, next(line for line in capsys.readouterr().out.splitlines() if "measured" in line)

    def shapes() -> list[str]:
        return list(dict.fromkeys(row["shape"] for row in record.read(tmp_path / "guided_step.csv")))

    assert run("--shapes", r"\b8x8") == (0, "guided_step: 1 cases measured, 0 kept")
    assert run("--seconds", "0") == (command.UNFINISHED, "guided_step: 0 cases measured, 0 kept, more to go")
    assert run() == (0, "guided_step: 2 cases measured, 1 kept")
    assert sorted(shapes()) == ["2x8", "32x8", "8x8"]
    assert run() == (0, "guided_step: 0 cases measured, 3 kept")
    assert run("--again", "--shapes", "base 2x") == (0, "guided_step: 1 cases measured, 0 kept")
    assert len(record.read(tmp_path / "guided_step.csv")) == 3 * 3

    # Rows of other sources say nothing of these, and a contestant that came later has no row yet.
    monkeypatch.setattr(provenance, "code", lambda: "other")
    assert run("--shapes", "base 2x") == (0, "guided_step: 1 cases measured, 0 kept")
    assert shapes() == ["2x8"]
    monkeypatch.setattr(
        command, "SUITES", {"guided_step": SimpleNamespace(cases=lambda *_: [case(right=right, late=right)])}
    )
    assert run() == (0, "guided_step: 1 cases measured, 0 kept")


def test_a_guest_that_errs_is_refused_and_fails_nothing() -> None:
    made = case(guest=wrong)
    made.guests.add("guest")
    found = {result.contestant: result for result in measure(made, TINY)}["guest"]
    assert found.gate == "red" and found.speedup is None and not found.failed


def test_the_code_has_a_hash_of_its_own() -> None:
    assert provenance.code() == provenance.code()
    facts = provenance.provenance("cpu")
    assert provenance.same_run(facts | {"when": "another day", "commit": "of its results"}, facts)
    assert not provenance.same_run(facts | {"code": "another"}, facts)


def test_folders_are_named_after_devices() -> None:
    assert folders.slug("NVIDIA H200 (MIG 1g.18gb)") == "nvidia-h200-mig-1g-18gb"
    assert folders.slug(provenance.device_name("cpu"))
