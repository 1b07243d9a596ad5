"""The harness itself: contestants that cheat are caught, and crashes stop nobody. No times are judged."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterable

import pytest
import torch

from glide_fast.bench import clocks, timing
from glide_fast.bench import contest as harness
from glide_fast.bench.contest import COPY, PLAIN, Competitor, Contest, Unable, copy_call
from glide_fast.bench.measurement import Measurement, table
from glide_fast.bench.timing import QUEUE, Effort, interleaved, summarise
from glide_fast.ops.case import Cost, allowed_error

TINY = Effort(warm=1, samples=3, sample_seconds=0.0)
SIZE = 4096
Maker = Callable[[torch.Tensor], harness.Outputs]


def competition(**contestants: Maker) -> dict[str, Measurement]:
    """What becomes of contestants that are to give ``exp(x)``; each is made from x."""
    x = torch.linspace(-1, 1, SIZE)
    first = x.clone()
    contest = Contest(
        "ops",
        "base",
        "exp",
        "cpu",
        truth=lambda: [x.double().exp()],
        allowed=lambda dtype, errors: allowed_error(errors[PLAIN], dtype),
        inputs=[x],
        redraw=lambda number: (x.copy_(first - number), None)[1],
        cost=Cost(8 * SIZE, SIZE),
        copy=True,
    )
    for name, make in {PLAIN: honest, **contestants}.items():
        contest.enter(name, lambda make=make: Competitor(make(x)))  # type: ignore[misc]
    return {row.contestant: row for row in contest.run(TINY)}


def honest(x: torch.Tensor) -> harness.Outputs:
    return lambda: [x.exp()]


def stale(x: torch.Tensor) -> harness.Outputs:
    kept: list[torch.Tensor] = []

    def call() -> list[torch.Tensor]:
        if not kept:
            kept.append(x.exp())
        return [kept[0].clone()]

    return call


def stale_buffer(x: torch.Tensor) -> harness.Outputs:
    buffer: list[torch.Tensor] = []

    def call() -> list[torch.Tensor]:
        if not buffer:
            buffer.append(x.exp())
        return buffer

    return call


def lazy_after_a_while(x: torch.Tensor) -> harness.Outputs:
    kept: list[torch.Tensor] = []

    def call() -> list[torch.Tensor]:
        if len(kept) < 3:
            kept.append(x.exp())
        return [kept[-1].clone()]

    return call


def in_a_thread(x: torch.Tensor) -> harness.Outputs:
    def call() -> list[torch.Tensor]:
        result = torch.empty_like(x)

        def work() -> None:
            with torch.inference_mode():
                result.copy_(x.exp())

        threading.Timer(0.02, work).start()
        return [result]

    return call


class Later(torch.Tensor):
    """Could compute its values when they are asked for."""


def changes_its_input(x: torch.Tensor) -> harness.Outputs:
    def call() -> list[torch.Tensor]:
        x.add_(1)
        return [x.sub(1).exp()]

    return call


CHEATS: dict[str, tuple[Maker, str]] = {
    "zeros": (lambda x: lambda: [torch.zeros_like(x)], ""),
    "no work at all": (lambda x: lambda: [torch.empty_like(x)], ""),
    "stale": (stale, ""),
    "stale buffer": (stale_buffer, ""),
    "lazy after a while": (lazy_after_a_while, ""),
    "in a thread": (in_a_thread, "a thread that it had started"),
    "the input": (lambda x: lambda: [x], "in the memory of the inputs"),
    "computed in the input": (lambda x: lambda: [x[:]], "in the memory of the inputs"),
    "later": (lambda x: lambda: [x.exp().as_subclass(Later)], "not a plain torch.Tensor"),
    "changes its input": (changes_its_input, "it changes its inputs"),
    "another shape": (lambda x: lambda: [x.exp()[:-1]], ""),
    "nothing": (lambda x: list, "zip"),
    "nan": (lambda x: lambda: [torch.full_like(x, torch.nan)], ""),
    "infinity": (lambda x: lambda: [torch.full_like(x, torch.inf)], ""),
    "nearly": (lambda x: lambda: [x.exp() + 1e-3], ""),
}


@pytest.mark.parametrize("name", CHEATS)
def test_who_cheats_is_caught_and_spoils_nobody(name: str) -> None:
    make, said = CHEATS[name]
    rows = competition(cheat=make, honest=honest)
    assert rows["cheat"].gate == "red" and rows["cheat"].failed and rows["cheat"].speedup is None
    assert rows["cheat"].row()["speedup"] == "refused" and said in rows["cheat"].row()["note"]
    for fair in (PLAIN, "honest"):
        assert rows[fair].gate == "green" and rows[fair].speedup is not None
    assert rows[COPY].gate == "" and rows[COPY].speedup is None and rows[COPY].over_copy == 1.0


def test_a_wrong_baseline_excuses_nobody_and_tells_no_speed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: torch.Tensor) -> harness.Outputs:
        return lambda: [x.exp() + 1e-3]

    monkeypatch.setitem(globals(), "honest", wrong)
    rows = competition(wrong=wrong, right=lambda x: lambda: [x.exp()])
    assert rows[PLAIN].gate == rows["wrong"].gate == "red" and rows["right"].gate == "green"
    assert all(row.speedup is None for row in rows.values())


def test_refusals_are_notes_and_crashes_are_red() -> None:
    def refuses(x: torch.Tensor) -> harness.Outputs:
        raise Unable("not on Tuesdays\nnor later")

    def crashes(x: torch.Tensor) -> harness.Outputs:
        def call() -> Iterable[torch.Tensor]:
            raise RuntimeError("an illegal access\nsomewhere")

        return call

    rows = competition(refuses=refuses, crashes=crashes, honest=honest)
    assert (rows["refuses"].note, rows["refuses"].gate, rows["refuses"].value) == (
        "not on Tuesdays",
        "",
        None,
    )
    assert (
        rows["crashes"].failed
        and rows["crashes"].fault == "CRASHED: RuntimeError: an illegal access somewhere"
    )
    assert rows["honest"].gate == "green"


def test_a_guest_that_errs_is_refused_and_fails_nothing() -> None:
    contest = Contest(
        "ops",
        "base",
        "ones",
        "cpu",
        truth=lambda: [torch.ones(4)],
        allowed=lambda dtype, errors: allowed_error(0.0, dtype),
    )
    contest.enter("guest", lambda: Competitor(lambda: [torch.zeros(4)]), guest=True)
    (row,) = contest.run(TINY)
    assert row.gate == "red" and not row.failed and contest.guests == contest.names == {"guest"}


def test_a_surprising_speed_up_asks_for_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SURPRISING", 0.0)
    rows = competition(honest=honest)
    assert "look whether it does the work" in rows["honest"].note and rows["honest"].speedup is not None


def test_contestants_take_turns() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    timings = interleaved(calls, "cpu", TINY)
    assert {timing.samples for timing in timings.values()} == {3}
    rounds = seen[-9:]
    assert all(set(rounds[i : i + 3]) == set("abc") for i in (0, 3, 6))


def test_the_summary() -> None:
    summary = summarise([5e-6, 1e-6, 3e-6, 2e-6, 4e-6])
    assert summary[:5] == pytest.approx((3.0, 2.0, 4.0, 1.0, 5))
    assert summary.from_python is None and summary.cold is None
    assert summarise([2e-6])[:5] == pytest.approx((2.0, 2.0, 2.0, 2.0, 1))


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


class Device:
    """A GPU whose clock is this test's: a call takes it 3 us, 2 us more where the cache is cold, and one stream is timed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.other_stream = 0.0  # when the work there ends
        self.cold = False
        self.waits: list[int] = []
        self.launches: list[int] = []
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = device.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) * 1e3

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "_sleep", self.sleep)
        monkeypatch.setattr(timing, "_emptier", lambda: self.empty_cache)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        timing.cycles_a_second.cache_clear()

    def synchronize(self) -> None:
        self.launches.append(0)
        self.now = max(self.now, self.other_stream)

    def sleep(self, cycles: int) -> None:
        self.waits.append(cycles)
        self.now += cycles / 2e9

    def empty_cache(self) -> None:
        self.cold = True
        self.now += 50e-6

    def call(self) -> None:
        self.now += 5e-6 if self.cold else 3e-6
        self.cold = False
        if self.launches:
            self.launches[-1] += 1

    def call_on_another_stream(self) -> None:
        self.other_stream = max(self.now, self.other_stream) + 3e-4


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterable[Device]:
    yield Device(monkeypatch)
    timing.cycles_a_second.cache_clear()


def test_on_a_device_calls_are_queued_behind_a_wait(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert timing.cycles_a_second() == pytest.approx(2e9)
    effort = TINY._replace(samples=5, sample_seconds=1e-3)
    found = interleaved({"a": device.call}, "cuda", effort)["a"]
    assert found.median == pytest.approx(3.0) and found.from_python == pytest.approx(3.0)
    assert max(device.launches) == QUEUE and found.cold is None and found.late == 0
    assert all(wait > 1e-4 * 2e9 for wait in device.waits[-5:])

    # A chain of so many launches that a stream would not queue 32 of it.
    monkeypatch.setattr(timing, "on_host", lambda call, repeats: 6e-4)
    device.launches.clear()
    interleaved({"a": device.call}, "cuda", effort)
    assert max(device.launches) == 6
    assert all(wait == pytest.approx((1.5 * 6 * 6e-4 + 1e-4) * 2e9, rel=1e-6) for wait in device.waits[-5:])


def test_calls_with_a_cold_cache_are_timed_apart(device: Device) -> None:
    effort = TINY._replace(samples=5, sample_seconds=1e-3, cold=True)
    found = interleaved({"a": device.call}, "cuda", effort)["a"]
    assert found.median == pytest.approx(3.0) and found.cold == pytest.approx(5.0)


def test_work_that_is_left_on_another_stream_is_caught(device: Device) -> None:
    contest = Contest("ops", "base", "work", "cuda", truth=None, allowed=None)
    contest.enter(PLAIN, lambda: Competitor(device.call))
    contest.enter("cheat", lambda: Competitor(device.call_on_another_stream))
    effort = TINY._replace(samples=5, sample_seconds=1e-4)
    rows = {row.contestant: row for row in contest.run(effort)}
    assert rows["cheat"].gate == "red" and "after the stream had ended" in rows["cheat"].fault
    assert rows[PLAIN].gate == "" and rows[PLAIN].speedup == 1.0


def test_clocks_and_what_holds_them_down_are_in_each_row(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "1410, 2619, 84, [N/A], 0x0000000000000024\n"
    monkeypatch.setattr(clocks, "_tool", lambda: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(clocks, "_device", lambda: "GPU-1")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        old = "clocks_throttle_reasons.active" in command[2]  # the only name that this driver knows
        return subprocess.CompletedProcess(command, 0 if old else 2, said if old else "not a valid field")

    monkeypatch.setattr(clocks.subprocess, "run", run)
    contest = Contest("ops", "base", "work", "cuda", truth=None, allowed=None)
    contest.enter(PLAIN, lambda: Competitor(device.call))
    (row,) = contest.run(TINY._replace(samples=5, sample_seconds=1e-4))
    assert row.clocks == "1410 MHz, memory 2619 MHz, 84 C"
    assert row.row()["throttled"] == "power cap, thermal (software)" and "throttled" in table([row])
    assert clocks.parse("1980, 2619, 40, 300.5, 0x0000000000000001").throttled == ""  # idle is no reason
    assert clocks.parse("no devices were found") == clocks.clocks("cpu") == clocks.Clocks()

    def broken(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(clocks.subprocess, "run", broken)
    assert clocks.clocks("cuda") == clocks.Clocks()


@pytest.mark.gpu
def test_another_stream_on_a_real_device() -> None:
    x = torch.randn(4096, 4096, device="cuda")
    other = torch.cuda.Stream()

    def cheat() -> list[torch.Tensor]:
        result = torch.empty_like(x)
        with torch.cuda.stream(other):
            for _ in range(10):
                torch.mm(x, x, out=result)
        return [result]

    contest = Contest(
        "ops",
        "base",
        "product",
        "cuda",
        truth=lambda: [x.double() @ x.double()],
        allowed=lambda dtype, errors: 1e-2,
    )
    contest.enter(PLAIN, lambda: Competitor(lambda: [x @ x]))
    contest.enter("cheat", lambda: Competitor(cheat))
    rows = {row.contestant: row for row in contest.run(TINY._replace(sample_seconds=1e-3, cold=True))}
    assert rows[PLAIN].gate == "green" and rows[PLAIN].cold is not None
    assert rows["cheat"].gate == "red"


def test_a_copy_moves_the_bytes_that_it_is_told() -> None:
    assert copy_call(1 << 20, "cpu")().numel() == 1 << 19  # type: ignore[attr-defined]
