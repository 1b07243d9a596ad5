"""The candidates of a call: which there are, that a wrong one never wins, and what a row says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import write_pipeline

from glide_fast.bench.measurement import Measurement
from glide_fast.bench.timing import Effort
from glide_fast.ops.backends import Backend, Plan, named, plans_from
from glide_fast.ops.case import cases_of
from glide_fast.ops.resample import OP, reference, resample
from glide_fast.ops.resample.arguments import Call
from glide_fast.plans import file, table
from glide_fast.plans.device import Device
from glide_fast.plans.signature import signature
from glide_fast.tune import build, measure, tasks
from glide_fast.tune.measure import NOTHING, Efforts
from glide_fast.tune.recipe import arguments_from
from glide_fast.tune.tasks import Task, checked

CPU = torch.device("cpu")
ONCE = Efforts(Effort(0, 1, 0.0, 0.0, 1), Effort(0, 2, 0.0, 0.0, 2))


@pytest.fixture
def task() -> Task:
    (first, *_) = tasks.of_cases(["resample"], "cpu", torch.float32, batches=1, small=True)
    return first


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that leaves the op with these backends before its reference."""
    monkeypatch.setattr(measure, "source_of", lambda op, backend: f"{op} {backend}")

    def leave(*backends: Backend[Any]) -> None:
        monkeypatch.setattr(OP, "_backends", [*backends, OP.backend("reference")])
        monkeypatch.setattr(OP, "_choices", {})

    return leave


def backend(name: str, run: Any, plans: Any = None, worth: str | None = None) -> Backend[Any]:
    return Backend(name, lambda facts: None, lambda facts: worth, run, plans)


def wrong(call: Call, *, plan: Plan | None = None) -> torch.Tensor:
    return torch.zeros_like(reference.run(call))


def tried(call: Call, *, plan: Plan | None = None) -> torch.Tensor:
    """Right with two of its plans; the others raise, or are wrong."""
    if plan is not None and plan["rows"] == 1:
        raise RuntimeError("out of resource: shared memory")
    return wrong(call) if plan is not None and plan["rows"] == 2 else reference.run(call)


def rows(call: Call) -> Iterator[Plan]:
    yield from ({"rows": number} for number in (4, 1, 2, 3))


def test_a_wrong_candidate_never_wins(task: Task, only: Any) -> None:
    only(backend("fast", wrong))
    verdict = measure.measure(task, CPU, ONCE)
    assert verdict.row is not None and verdict.row.fastest.backend == "reference"
    assert verdict.row.runner_up is None and verdict.row.compared == 2
    assert set(verdict.row.sources) == {"fast", "reference"}


def test_a_plan_that_cannot_run_or_is_wrong_is_left_out(task: Task, only: Any) -> None:
    only(backend("tried", tried, rows))
    row = measure.measure(task, CPU, ONCE).row
    assert row is not None and row.compared == 5 and row.error <= 1e-6
    found = [(one.backend, one.plan) for one in (row.fastest, row.runner_up) if one]
    assert set(map(str, found)) <= {
        "('tried', {'rows': 4})", "('tried', {'rows': 3})", "('reference', None)"
    }  # fmt: skip


def test_where_one_backend_alone_takes_a_call_there_is_no_row(task: Task, only: Any) -> None:
    only()
    assert measure.measure(task, CPU, ONCE) == (None, NOTHING, None)


def test_a_source_that_is_not_known_makes_no_row(
    task: Task, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(backend("fast", reference.run))
    monkeypatch.setattr(measure, "source_of", lambda op, backend: None)
    assert "a source is not known" in measure.measure(task, CPU, ONCE).why_not


def test_the_rules_choice_is_always_timed_in_the_end(task: Task, only: Any) -> None:
    only(backend("unsure", reference.run, worth="never measured"), backend("rule", tried, rows))
    arguments = task.arguments()
    by_rule = [(e.backend.name, e.plan) for e in measure.entrants(OP, arguments, task.signature) if e.by_rule]
    assert by_rule == [("rule", {"rows": 4})]
    verdict = measure.measure(task, CPU, ONCE)
    assert verdict.row is not None and verdict.by_rule_us is not None


def test_other_inputs_and_the_first_ones_again() -> None:
    x, weight = torch.randn(3, 4) + 5, torch.randn(4)
    inputs = {"x": x, "weight": weight, "step": torch.ones(2, dtype=torch.long)}
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    redraw = measure._redraw(inputs)
    redraw(1)
    assert not torch.equal(x, before["x"]) and 2 < x.mean() < 8
    assert all(torch.equal(inputs[name], before[name]) for name in ("weight", "step"))
    redraw(0)
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)


def test_a_row_decides_what_runs(
    task: Task, only: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(backend("slow", wrong), backend("tried", tried, rows))
    row = measure.measure(task, CPU, ONCE).row
    assert row is not None and row.call == task.signature
    monkeypatch.setattr(table, "source_of", lambda op, backend: f"{op} {backend}")
    here = Device.of(CPU)
    versions = {"torch": torch.__version__}
    file.write(tmp_path / here.file, file.PlanFile(here, versions, (row,)))
    given = task.arguments()
    with plans_from(str(tmp_path)):
        assert torch.equal(resample(**given), reference.run(Call(**given)))


@pytest.mark.parametrize("op", tasks.chosen_ops([]))
def test_a_recipe_makes_a_call_with_the_same_line(op: str) -> None:
    for one in tasks.of_cases([op], "cpu", torch.float32, batches=1, small=True)[::9]:
        recipe = json.loads(json.dumps(one.recipe))
        made, drawn = checked(op, arguments_from(recipe, "cpu")), checked(op, one.arguments())
        assert signature(made) == signature(drawn) and made.facts() == drawn.facts()
        assert tasks.held_signature(op, made, "cpu") == one.signature
        assert cases_of(op).cost(made) == one.cost


def test_compiling_runs_every_candidate_of_triton(task: Task, only: Any) -> None:
    only(backend("triton", tried, rows))
    assert (
        build.compile_candidates(task.recipe, "cpu") == 3
    )  # the one that raises says so again when it is timed
    assert build.main([json.dumps(task.recipe) + "\n", "\n"], "cpu") == 3
    only(backend("cpu", reference.run))
    assert build.compile_candidates(task.recipe, "cpu") == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a program for a shell")
def test_processes_share_the_calls_and_say_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"

    def stands_in(*lines: str) -> None:
        program.write_text("\n".join(["#!/bin/sh", f"cd {tmp_path}", *lines]))
        program.chmod(0o755)

    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    stands_in("cat > got.$$")
    assert build.in_processes([{"op": str(number)} for number in range(5)], "cuda", 100) == []
    shares = [file.read_text().splitlines() for file in tmp_path.glob("got.*")]
    assert sorted(map(len, shares)) == [2, 3] and len({line for share in shares for line in share}) == 5
    stands_in("cat > /dev/null", "echo no device >&2", "exit 1")
    assert build.in_processes([{"op": "1"}], "cuda", 100) == ["no device"]
    stands_in("exec sleep 100")
    assert build.in_processes([{"op": "1"}], "cuda", 0) == ["compiling did not end in 0 s"]


def test_ops_that_there_are() -> None:
    assert tasks.chosen_ops([]) == sorted(map(str, {*tasks.ops()})) and named("resample") is OP


def test_what_is_measured_of_the_cases_is_what_a_model_asks_for(tmp_path: Path) -> None:
    """A row is found by a call's line: but for the sizes, a model's calls have the lines of the cases."""

    def without_sizes(found: list[Task]) -> set[tuple[str, str]]:
        return {(one.op, re.sub(r"\b\d+(x\d+)*\b", "#", one.signature)) for one in found}

    names = tasks.chosen_ops([])
    of_step = tasks.of_model(str(write_pipeline(tmp_path / "tiny")), 2, names, CPU, torch.float32)
    on_gpus = {name for name in names if not any("cpu" in case.devices for case in cases_of(name).CASES)}
    assert {one.op for one in of_step} == {*names} - {"masked_attention"} - on_gpus
    assert all(one.times >= 1 for one in of_step)
    cases = tasks.of_cases(names, "cpu", torch.float32, batches=1, small=True)
    assert without_sizes(of_step) <= without_sizes(cases)


@pytest.mark.parametrize(
    ("rule", "other", "wins"),
    [
        ((1.00, 1.02, 1.04), (0.80, 0.82, 0.84), "fast"),
        ((1.00, 1.02, 1.04), (0.70, 0.82, 1.01), "rule"),  # it scatters
        ((1.00, 1.01, 1.02), (0.98, 0.995, 0.999), "rule"),  # the same time
    ],
)
def test_noise_does_not_replace_the_rules_choice(
    task: Task, only: Any, rule: tuple[float, ...], other: tuple[float, ...], wins: str
) -> None:
    only(backend("rule", reference.run), backend("fast", reference.run))
    entered = list(measure.entrants(OP, task.arguments(), task.signature))[:2]
    measured = {
        name: Measurement("tune", "", "", name, value=value, lower=lower, upper=upper, error=0.0, allowed=1.0)
        for name, (lower, value, upper) in (("rule", rule), ("fast", other))
    }
    verdict = measure._verdict(task, entered, measured, {"rule": "r", "fast": "f"}, 3, task.arguments())
    assert verdict.row is not None and verdict.row.fastest.backend == wins
    assert verdict.by_rule_us == pytest.approx(1e6 * rule[1])


def test_on_a_gpu_what_a_graph_wrote_is_compared(
    task: Task, only: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the graph holds the call several times, of which the time of one is told."""
    ran: list[int] = []
    released: list[int] = []

    class Graph:
        def __init__(self, work: Any) -> None:
            self._work = work

        def replay(self) -> None:
            self._work()

        def release(self) -> None:
            released.append(1)

    class Recorder:
        def __init__(self, device: torch.device) -> None:
            pass

        def record(self, work: Any) -> Graph:
            work()
            return Graph(work)

    def counted(call: Call) -> torch.Tensor:
        ran.append(1)
        return reference.run(call)

    monkeypatch.setattr(measure, "CudaGraphs", Recorder)
    only(backend("counted", counted))
    entrant = next(measure.entrants(OP, task.arguments(), task.signature))
    with ExitStack() as ends:
        competitor = measure._captured(entrant, CPU, 3, torch.float32, ends)
        assert len(ran) == 4 and competitor.outputs is not None
        (found,) = competitor.outputs()
        competitor.call()
        assert len(ran) == 10 and not released
        assert torch.equal(found, reference.run(entrant.call))
    assert released == [1]
    timed = Measurement("tune", "", "", "counted", value=6.0, lower=3.0, upper=9.0)
    once = measure._divided(timed, 3)
    assert (once.value, once.lower, once.upper) == (2.0, 1.0, 3.0)
