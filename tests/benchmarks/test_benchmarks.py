"""The op suites at tiny sizes: who competes, what is kept in the file, when a run goes on. No times are judged."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import contests, folders, suites
from benchmarks.contests import COMPILED, PLAIN, Arguments, Baseline, contest
from glide_fast.bench import ceilings, provenance
from glide_fast.bench.contest import COPY
from glide_fast.bench.record import Row, Table, read, write
from glide_fast.bench.timing import Effort
from glide_fast.ops import masked_attention
from glide_fast.ops.backends import ops
from glide_fast.ops.case import Case
from glide_fast.ops.masked_attention import cases as attention_cases

TINY = Effort(warm=1, samples=2, sample_seconds=0.0)
ATTENTION = suites.found()["masked_attention"]


def draw(tokens: int, batch: int, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    q, k, v = torch.randn(3, batch, tokens, 16, generator=generator).to(dtype).unbind()
    return {"q": q, "k": k, "v": v, "heads": 2, "causal": False, "lengths": None}


CASES = tuple(
    Case("masked_attention", model, "5 tokens", (2, 8, 32), functools.partial(draw, 5))
    for model in ("clip text", "clip image")
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[Case, ...]:
    """Only two small calls, of one op."""
    monkeypatch.setattr(attention_cases, "CASES", CASES[:1])
    monkeypatch.setattr(command, "SUITES", {"masked_attention": ATTENTION})
    monkeypatch.setattr(ceilings, "measured", lambda *_: {"copy": (1.0, "GB/s")})
    return CASES[:1]


def size(**changes: Any) -> contests.Size:
    return contests.Size(CASES[0], 2, torch.float32, "cpu")._replace(**changes)


def numbers(one: contests.Size) -> tuple[int, ...]:
    """Of a case's name: the side of the picture, then channels."""
    return tuple(map(int, re.findall(r"\d+", one.case.name)))


def suite(**baselines: Baseline) -> ModuleType:
    return SimpleNamespace(BASELINES=ATTENTION.BASELINES | baselines)  # type: ignore[return-value]


def wrong(a: Arguments) -> list[torch.Tensor]:
    return [a["q"] * 0]


@pytest.mark.parametrize("op", sorted(suites.found()))
def test_every_suite_is_right_at_a_small_size(op: str) -> None:
    suite = suites.found()[op]
    sizes = sorted(contests.sizes(op, "cpu", small=True), key=numbers, reverse=True)
    smallest = {size.case.model: size for size in sizes}
    every = [size for size in sizes if size.case.model == "base"] if op == "guided_step" else []
    for size in (*every, *smallest.values()):
        made = contest(suite, size)
        assert made.names == contests.names(suite, size, False) | {COPY}
        rows = {row.contestant: row for row in made.run(TINY)}
        assert not [row for row in rows.values() if row.failed], [row.row() for row in rows.values()]
        assert rows[PLAIN].speedup == 1.0 and rows[COPY].value
        if not torch.cuda.is_available() and "triton" in ops()[op].names:
            assert rows["glide_fast triton"].note and rows["glide_fast triton"].value is None
    assert smallest


def test_every_op_has_a_suite() -> None:
    assert set(suites.found()) == set(ops())


def test_what_does_not_compile_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler itself takes a minute to load; it raises where its result is first called, as this does.
    def compile_(call: object, dynamic: bool) -> object:
        def broken(a: Arguments) -> list[torch.Tensor]:
            raise RuntimeError("no such thing")

        return broken

    monkeypatch.setattr(torch, "compile", compile_)
    made = contest(ATTENTION, size(), compiled=True)
    assert made.names == contests.names(ATTENTION, size(), True) | {COPY}
    row = {row.contestant: row for row in made.run(TINY)}[COMPILED]
    assert row.value is None and row.gate == "" and "no such thing" in row.note


def test_a_crash_of_ours_is_red_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("an illegal access\nsomewhere")

    op = ops()["masked_attention"]
    broken = [dataclasses.replace(b, run=crash) if b.name == "sdpa" else b for b in op._backends]
    monkeypatch.setattr(op, "_backends", broken)
    monkeypatch.setattr(op, "_choices", {})
    facts = provenance.provenance("cpu")
    rows = Table(tmp_path / "ops.csv", command.KEY, facts)
    done = contests.run_suite(ATTENTION, [size()], TINY, rows)
    assert done.measured == 1 and len(done.red) == 1 and "glide_fast sdpa" in done.red[0]
    found = {row["contestant"]: row for row in read(tmp_path / "ops.csv")}
    assert found[PLAIN]["gate"] == "green" and found["glide_fast sdpa"]["speedup"] == "refused"
    assert found["glide_fast sdpa"]["note"] == "CRASHED: RuntimeError: an illegal access somewhere"
    again = contests.run_suite(ATTENTION, [size()], TINY, Table(tmp_path / "ops.csv", command.KEY, facts))
    assert again == done._replace(measured=0, kept=1)


def test_what_is_prepared_follows_the_inputs() -> None:
    """A baseline whose preparation copies an input is right for later inputs as well."""

    def copied(a: Arguments) -> Arguments:
        return a | {"q": a["q"].clone()}

    def attend(a: Arguments) -> list[torch.Tensor]:
        return [masked_attention(a["q"], a["k"], a["v"], a["heads"])]

    rows = {row.contestant: row for row in contest(suite(copies=Baseline(attend, copied)), size()).run(TINY)}
    assert rows["copies"].gate == "green"


def test_sizes() -> None:
    quick = list(contests.sizes("masked_attention", "cpu", quick=True))
    assert {one.case.model for one in quick} == {"clip text", "clip image"} and len(quick) == 2
    every = list(contests.sizes("masked_attention", "cpu"))
    assert len(every) == sum(len(case.batches) for case in attention_cases.CASES)
    assert size().work == "masked_attention 2 x 5 tokens, float32"


def test_the_command_records_what_it_measured_on(
    tmp_path: Path,
    tiny: tuple[Case, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--device", "cpu", "--quick", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert PLAIN in capsys.readouterr().out
    rows = read(tmp_path / "ops.csv")
    assert {row["contestant"] for row in rows} == contests.names(ATTENTION, size(), False) | {COPY}
    facts = ("when", "device", "threads", "python", "torch", "commit", "code")
    for column in (*facts, "value", "lower", "upper", "gate"):
        assert all(row[column] for row in rows if row["contestant"] == PLAIN), column
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ceilings.csv", "ops.csv"]

    monkeypatch.setitem(command.SUITES, "masked_attention", suite(wrong=Baseline(wrong)))
    for said in (
        "1 calls measured",
        "0 calls measured, 1 kept",
    ):  # kept from the file, and as wrong as before
        assert command.main(arguments) == 1
        out = capsys.readouterr().out
        assert said in out and "WRONG: clip text masked_attention 2 x 5 tokens, bfloat16: wrong" in out


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path,
    tiny: tuple[Case, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "FULL", TINY)
    base = ["--device", "cpu", "--no-compile", "--out", str(tmp_path)]

    def run(*more: str) -> tuple[int, str]:
        status = command.main([*base, *more])
        return status, next(line for line in capsys.readouterr().out.splitlines() if "calls measured" in line)

    def batches() -> set[str]:
        return {row["work"].split(" ")[1] for row in read(tmp_path / "ops.csv")}

    assert run("--shapes", r"\b8 x") == (0, "masked_attention: 1 calls measured, 0 kept")
    late = "masked_attention: 0 calls measured, 0 kept, more to go"
    assert run("--seconds", "0") == (command.UNFINISHED, late)
    assert run() == (0, "masked_attention: 2 calls measured, 1 kept")
    assert batches() == {"2", "8", "32"}
    assert run() == (0, "masked_attention: 0 calls measured, 3 kept")
    assert run("--again", "--shapes", "text .* 2 x") == (0, "masked_attention: 1 calls measured, 0 kept")
    assert batches() == {"2", "8", "32"}

    # Rows of other sources say nothing of these, and a contestant that came later has no row yet.
    monkeypatch.setattr(provenance, "code", lambda: "other")
    assert run("--shapes", " 2 x") == (0, "masked_attention: 1 calls measured, 0 kept")
    assert batches() == {"2"}
    right = Baseline(ATTENTION.BASELINES[PLAIN].run, ATTENTION.BASELINES[PLAIN].prepare)
    monkeypatch.setitem(command.SUITES, "masked_attention", suite(late=right))
    assert run("--shapes", " 2 x") == (0, "masked_attention: 1 calls measured, 0 kept")


def test_a_check_compares_in_every_type_and_times_nothing(
    tiny: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "limits", lambda *_: pytest.fail("timed"))
    assert command.main(["--device", "cpu", "--check"]) == 0
    out = capsys.readouterr().out
    assert "float32" in out and "bfloat16" in out and "error" in out and " us " not in out
    alone = contests.reference_alone("masked_attention")
    alone.BASELINES["wrong"] = Baseline(wrong)
    monkeypatch.setattr(contests, "reference_alone", lambda op: alone)
    assert command.main(["--device", "cpu", "--check"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_ceilings() -> None:
    limits = ceilings.measured("cpu", TINY, megabytes=1, sides=(16, 32))
    kinds = {name.split(",")[0] for name in limits}
    assert kinds == {"copy", "clone", "gemm bfloat16", "gemm float32", "empty call"}
    assert all(value > 0 for value, _ in limits.values())


def test_rows_with_other_columns_fit_into_one_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    write(file, [{"a": "1"}, {"a": "2", "b": "3"}])
    assert read(file) == [{"a": "1", "b": ""}, {"a": "2", "b": "3"}]


def test_a_table_keeps_rows_of_the_same_code(tmp_path: Path) -> None:
    file, facts = tmp_path / "some.csv", {"device": "this", "code": "y", "when": "now"}

    def table(facts: Row = facts, part: str = "one", **options: bool) -> Table:
        return Table(file, ("a", "b"), facts, {"part": part}, **options)

    rows = table()
    rows.add({"a": "1", "b": "2", "value": "old"}, {"a": "1", "b": "3", "value": "other", "gate": "red"})
    rows.add({"a": "1", "b": "2", "value": "new"})
    table(part="two").add({"a": "1", "b": "2", "another column": "x"})
    again = table(facts | {"when": "later"})
    row = again.find("1", "2")
    assert len(again.rows) == 2 and row is not None and row["value"] == "new"
    assert again.red() == ["1 3"]
    assert table(again=True).rows == [] and table(facts | {"code": "x"}).rows == []
    assert len(table(part="two").rows) == 1 and len(read(file)) == 3
    table(again=True).add({"a": "4", "b": "4"})
    assert [row["part"] for row in read(file)] == ["two", "one"]


def test_the_code_has_a_hash_of_its_own() -> None:
    assert provenance.code() == provenance.code()
    facts = provenance.provenance("cpu")
    assert provenance.same_run(facts | {"when": "another day", "commit": "of its results"}, facts)
    assert not provenance.same_run(facts | {"code": "another"}, facts)


def test_folders_are_named_after_devices() -> None:
    assert folders.slug("NVIDIA H200 (MIG 1g.18gb)") == "nvidia-h200-mig-1g-18gb"
    assert folders.slug(provenance.device_name("cpu"))
