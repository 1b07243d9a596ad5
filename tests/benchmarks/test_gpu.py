"""The GPU suite's plumbing, on a CPU: parts, their states and files, and that nothing wrong is called green."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import command, probes
from benchmarks.gpu.part import GREEN, LONGEST, RED, UNFINISHED, Outcome, Part, Setting, conclude
from benchmarks.gpu.parts import (
    accuracy,
    build,
    commands,
    loops,
    ops,
    parts,
    peak,
    precision,
    sanitizer,
    tests,
    training,
)
from benchmarks.gpu.probes import Found, Probe
from benchmarks.gpu.table import Table
from benchmarks.ops import Done
from benchmarks.record import read
from glide_fast.bench.provenance import provenance
from glide_fast.cli.commands import app
from glide_fast.models.config import PRESETS
from glide_fast.ops.backends import ops as registered

SMALL = ["--device", "cpu", "--small", "--out"]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", tmp_path, provenance("cpu"), small=True)


def states(folder: Path) -> dict[str, str]:
    return {row["part"]: row["state"] for row in read(folder / "parts.csv")}


def test_two_parts_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*SMALL, str(tmp_path), "ceilings", "training"]) == 0
    out = capfd.readouterr().out
    assert "== ceilings: GREEN" in out and str(tmp_path / "training.csv") in out
    assert states(tmp_path) == {"ceilings": GREEN, "training": GREEN}
    (row,) = read(tmp_path / "training.csv")
    assert float(row["images_per_s"]) > 0 and row["gate"] == GREEN
    assert all(row[name] for name in ("when", "device", "torch", "commit", "code"))
    assert gpu.main([*SMALL, str(tmp_path), "--list"]) == 0
    assert capfd.readouterr().out.count(GREEN) == 2


def test_parts_have_names_of_their_own_and_fit_their_time() -> None:
    names = [part.name for part in parts()]
    assert len(names) == len(set(names))
    assert {
        "build",
        "tests",
        "sanitizer",
        "accuracy-ops",
        "ceilings",
        "ops-group_norm_act",
        "step",
        "ablation",
        "loop",
        "pipeline",
        "cold-start",
        "memory",
        "quality",
        "profile",
        "peak",
        "accuracy-steps",
        "accuracy-loops",
        "same-picture",
        "capture",
        "soak",
        "training",
    } <= set(names)
    assert all(
        part.about and part.seconds <= LONGEST and LONGEST + gpu.GRACE < 9 * 60 + 30 for part in parts()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no part nonsense; the parts are build"),
        (["--device", "cpu"], "say --small"),
        (["--device", "cpu", "--small"], "--out"),
    ],
)
def test_misuse_is_explained(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        (command.Ran(None, "half\n"), "was ended after"),
        (command.Ran(-11, "a\nSegmentation fault\n"), "Segmentation fault"),
        (command.Ran(0, ""), "exit status 0"),  # it ended well, but wrote no state
    ],
)
def test_what_dies_is_red(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, ran: command.Ran, said: str
) -> None:
    part = Part("fragile", "it dies", lambda setting: Outcome(GREEN))
    monkeypatch.setattr(command, "run", lambda *_: ran)
    earlier = setting._replace(facts=setting.facts | {"when": "2001-01-01T00:00:00Z"})
    gpu.note(earlier, part, Outcome(GREEN), 1.0)  # an older green does not hide it
    assert gpu.outside(part, setting, []) == RED
    (row,) = read(setting.folder / "parts.csv")
    assert row["state"] == RED and said in row["notes"]


def test_the_command_ends_as_its_parts_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"one": GREEN, "two": UNFINISHED}
    ran: list[str] = []

    def outside(part: Part, setting: Setting, arguments: list[str]) -> str:
        ran.append(part.name)
        gpu.note(setting, part, Outcome(outcomes[part.name]), 1.0)
        return outcomes[part.name]

    made = tuple(Part(name, "a part", lambda setting: Outcome(GREEN)) for name in outcomes)
    monkeypatch.setattr(gpu, "parts", lambda: made)
    monkeypatch.setattr(gpu, "outside", outside)
    assert gpu.main([*SMALL, str(tmp_path)]) == gpu.EXIT_UNFINISHED
    outcomes["two"] = RED
    assert gpu.main([*SMALL, str(tmp_path)]) == 1
    assert ran == ["one", "two", "two"]  # what is green is not run again
    outcomes["two"] = GREEN
    assert gpu.main([*SMALL, str(tmp_path), "--again"]) == 0
    assert ran[3:] == ["one", "two"]


def test_a_program_is_ended_with_its_children(tmp_path: Path) -> None:
    child = (
        "import subprocess, sys; print('on', flush=True); subprocess.run([sys.executable, '-c', 'input()'])"
    )
    start = time.monotonic()
    ran = command.run([sys.executable, "-c", f"import time; {child}; time.sleep(60)"], 2.0)
    assert ran.status is None and "on" in ran.output
    # The child held the pipe as well: its end is what let the output end.
    assert time.monotonic() - start < 30
    assert command.run([sys.executable, "-c", "print(1); raise SystemExit(3)"], 30) == (3, "1\n")


def test_a_table_keeps_rows_of_the_same_code(setting: Setting) -> None:
    table = Table(setting, "some", ("a", "b"))
    table.add({"a": "1", "b": "2", "value": "old"})
    table.add({"a": "1", "b": "3", "value": "other"})
    table.add({"a": "1", "b": "2", "value": "new"})
    again = Table(setting, "some", ("a", "b"))
    assert len(again.rows) == 2
    row = again.find("1", "2")
    assert row is not None and row["value"] == "new"
    assert Table(setting._replace(again=True), "some", ("a", "b")).rows == []
    assert Table(setting._replace(facts=setting.facts | {"code": "x"}), "some", ("a", "b")).rows == []


def test_a_build_is_judged_by_what_it_holds() -> None:
    good: dict[str, object] = {"loads": True, "why_not": None, "cuda": True, "cuda_targets": ["sm_90a"]}
    assert build.judged(good, "90a").state == GREEN
    assert build.judged(good | {"cuda": False, "cuda_why_not": "no nvcc"}, "90a") == Outcome(
        RED, notes=("built without CUDA: no nvcc",)
    )
    assert build.judged(good, "80").state == RED
    assert build.judged(good | {"loads": False, "why_not": "missing symbol"}, None).state == RED
    assert build.judged({"loads": True, "why_not": None}, None).state == GREEN
    assert [build.target(each) for each in ((8, 0), (9, 0), (10, 0), (7, 5))] == ["80", "90a", "100", None]


def test_a_path_without_nvcc(tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "nvcc").touch()
    assert build.without_nvcc(f"/usr/bin:{tmp_path}/cuda:/bin").split(":")[-1] == "/bin"
    assert str(tmp_path) not in build.without_nvcc(f"/bin:{tmp_path}/cuda")


def test_a_build_that_fails_is_red(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", lambda *_: command.Ran(1, "error: no such header\n"))
    assert build.run(setting) == Outcome(RED, notes=("the build failed: error: no such header",))


TEST_FILE = """
import pytest
def test_good(): pass
{more}
"""


@pytest.mark.parametrize(
    ("more", "state", "said"),
    [
        ("def test_more(): pass", GREEN, ""),
        ("def test_bad(): assert 0", RED, "failed: test_bad"),
        (
            "@pytest.mark.skip(reason='no peer')\ndef test_other(): pass",
            GREEN,
            "skipped: test_other: no peer",
        ),
        ("import os; os._exit(5)", RED, ""),
    ],
)
def test_test_files_are_run_and_counted(tmp_path: Path, more: str, state: str, said: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(TEST_FILE.format(more=more))
    row = tests.one(str(file), [], 60)
    assert row["state"] == state and said in row["notes"]


def test_files_run_at_the_same_time_and_what_the_time_was_up_for_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(2)

    def one(file: str, marked: Sequence[str], seconds: float) -> dict[str, str]:
        meeting.wait(20)  # each is under way while the other is
        return dict.fromkeys(("passed", "failed", "skipped"), "1") | {
            "state": RED if file == "b" else GREEN,
            "notes": "bad" if file == "b" else "",
        }

    monkeypatch.setattr(tests, "files", lambda marked, seconds: ["a", "b"])
    monkeypatch.setattr(tests, "one", one)
    facts = dict.fromkeys(("when", "device", "torch", "commit", "code"), "x")
    setting = Setting(device="cuda", folder=tmp_path, facts=facts)
    outcome = tests.run(setting)
    assert (outcome.state, outcome.notes) == (RED, ("b: bad",))
    monkeypatch.setattr(tests, "files", lambda marked, seconds: ["c"])
    late = tests.run(setting._replace(until=0.0, again=True))
    assert (late.state, late.notes) == (UNFINISHED, ("to go on with c",))


def test_a_failure_of_a_file_is_shown_when_it_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("def test_bad(): assert 0\ndef test_killed(): import os; os._exit(5)\n")
    assert tests.one(str(file), [], 60)["state"] == RED
    assert "test_bad (call)" in capfd.readouterr().out


def test_a_file_whose_tests_all_skip_is_red(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("import pytest\n@pytest.mark.skip(reason='no device')\ndef test_it(): pass\n")
    row = tests.one(str(file), [], 60)
    assert row["state"] == RED and "no test passed" in row["notes"]


def test_the_gpu_tests_are_found() -> None:
    assert tests.files(["-m", "gpu", "tests/ops/test_triton.py"], 120) == ["tests/ops/test_triton.py"]


SANITIZER = """#!/bin/sh
while [ "$1" != "{python}" ]; do shift; done
echo "========= COMPUTE-SANITIZER"
{body}
"""


@pytest.mark.parametrize(
    ("body", "state", "said"),
    [
        ('"$@" && echo "========= ERROR SUMMARY: 0 errors"', GREEN, "0 errors"),
        ('echo "========= ERROR SUMMARY: 3 errors"; exit 86', RED, "3 errors"),
        ('echo "========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)"', RED, "2 hazards"),
        ("true", RED, "no summary"),
        ('echo "========= ERROR SUMMARY: 0 errors"; exit 1', RED, "exit status 1"),
    ],
)
def test_the_sanitizers_own_count_is_what_counts(
    setting: Setting, tmp_path: Path, body: str, state: str, said: str
) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(python=sys.executable, body=body))
    program.chmod(0o755)
    row = sanitizer.one(str(program), "memcheck", "guided_step", setting)
    assert row["state"] == state and said in row["notes"]


def test_an_error_before_the_time_was_up_is_red(tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    assert conclude(file, [], "the rest") == Outcome(UNFINISHED, (file,), ("to go on with the rest",))
    assert conclude(file, ["it is wrong"], "the rest").state == RED
    assert conclude(file, ["it is wrong"]).state == RED
    assert conclude(file, []) == Outcome(GREEN, (file,))


def test_every_op_has_probes() -> None:
    assert {probe.op for probe in probes.PROBES} == set(registered())
    assert len({(probe.op, probe.what) for probe in probes.PROBES}) == len(probes.PROBES)


@pytest.mark.parametrize("op", sorted({probe.op for probe in probes.PROBES}))
def test_backends_are_right_on_the_probes(op: str) -> None:
    for probe in probes.of_op(op):
        found = list(probes.look(probe, "cpu"))
        assert found and not [each for each in found if each.wrong]


def broken(tensors: Any) -> list[torch.Tensor]:
    """Right for fp64 and for the reference's turn; a crash of a backend otherwise."""
    if registered()["guided_step"].forced() != "reference":
        raise RuntimeError("an illegal access")
    return [tensors["x"]]


def test_a_crash_is_wrong_and_told(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe("guided_step", "fake", lambda g: {"x": torch.ones(2)}, broken, fp32_only=True)
    found = list(probes.look(probe, "cpu"))
    assert found and all(each.wrong and "illegal access" in each.crash for each in found)
    monkeypatch.setattr(accuracy, "PROBES", (probe,))
    outcome = accuracy.run(setting)
    assert outcome.state == RED and "guided_step fake float32 cpu" in outcome.notes
    assert accuracy.run(setting) == outcome  # kept, and as red


def test_an_op_that_nothing_ran_is_red(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        accuracy, "look", lambda probe, device: iter([Found(probe, torch.float32, "cuda", reason="absent")])
    )
    monkeypatch.setattr(accuracy, "PROBES", probes.of_op("guided_step"))
    assert accuracy.run(setting) == Outcome(
        RED, (setting.folder / "accuracy-ops.csv",), ("no backend of guided_step ran",)
    )


def test_what_is_allowed() -> None:
    made = Found(probes.PROBES[0], torch.bfloat16, "cpu", error=0.01, reference_error=0.001)
    assert (
        made.wrong
        and not made._replace(error=2**-8).wrong
        and not made._replace(error=0.02, reference_error=0.011).wrong
    )
    assert made._replace(error=float("nan")).wrong and not made._replace(reason="not here").wrong


def test_a_probe_run_in_which_nothing_ran_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probes, "look", lambda probe, device: iter([Found(probe, torch.float32, "cuda", reason="absent")])
    )
    assert probes.main(["guided_step", "--device", "cpu"]) == 1


@pytest.mark.parametrize(
    ("done", "state"),
    [
        (Done(2, 1, (), False), GREEN),
        (Done(1, 0, (), True), UNFINISHED),
        (Done(1, 0, ("case: glide_fast cpu",), True), RED),
        (Done(1, 0, ("case: glide_fast cpu",), False), RED),
    ],
)
def test_an_op_part_is_as_its_suite(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, done: Done, state: str
) -> None:
    monkeypatch.setattr(ops, "run_suite", lambda *_, **__: done)
    assert ops.run("guided_step", setting).state == state


def test_training_that_diverges_tells_no_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverges:
        def __init__(self, *_: object) -> None:
            pass

        def train_step(self) -> dict[str, float]:
            return {"loss": float("nan"), "grad_norm": 1.0}

    monkeypatch.setattr(training, "Trainer", Diverges)
    row = training.measure(training.TINY, "cpu", tmp_path, steps=2)
    assert row["gate"] == "red" and row["images_per_s"] == "refused"


def test_whole_models_from_end_to_end(setting: Setting) -> None:
    """Errors of steps and loops, captures, a soak and peaks, at tiny size."""
    for run, name in (
        (peak.run, "peak"),
        (precision.steps, "accuracy-steps"),
        (precision.loops, "accuracy-loops"),
        (loops.capture, "capture"),
        (loops.soak, "soak"),
    ):
        outcome = run(setting)
        assert outcome == Outcome(GREEN, (setting.folder / f"{name}.csv",)), outcome.notes
        rows = read(setting.folder / f"{name}.csv")
        assert {row["model"] for row in rows} == {"tiny base", "tiny upsampler"}
        assert all(row["gate"] == GREEN for row in rows)
        assert run(setting) == outcome  # kept


def test_the_same_picture(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precision.TYPES, "cpu", (torch.float32,))
    assert precision.same_picture(setting).state == GREEN
    assert {row["stage"] for row in read(setting.folder / "same-picture.csv")} == {"base", "upsampler"}
    monkeypatch.setattr(precision, "SAME", {torch.float32: float("inf")})
    monkeypatch.setattr(precision, "psnr", lambda got, want: 20.0)
    assert precision.same_picture(setting._replace(again=True)).state == RED


def test_psnr() -> None:
    assert precision.psnr(torch.full((4,), 0.5), torch.full((4,), 0.4)) == pytest.approx(20, abs=1e-4)
    assert precision.psnr(torch.ones(4), torch.ones(4)) == float("inf")


def test_an_error_beyond_torchs_own_is_red(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = precision.Judged(0.02, 0.01, 0.011)
    monkeypatch.setattr(
        precision, "step_errors", lambda subject, setting: iter([(torch.float32, 0.02, judged)])
    )
    outcome = precision.steps(setting)
    assert outcome.state == RED and "tiny base float32 0.02" in outcome.notes


def test_a_picture_that_changes_is_red(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = loops.Runs.run, []

    def drifts(self: loops.Runs, kind: int) -> torch.Tensor:
        calls.append(kind)
        return run(self, kind) + (len(calls) > 6)

    monkeypatch.setattr(loops.Runs, "run", drifts)
    assert loops.soak(setting).state == RED


def test_captures_that_keep_memory_are_red(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    grown = iter(range(10**6))
    monkeypatch.setattr(loops, "device_mib", lambda device: (float(next(grown)), 0.0))
    runs = loops.Runs(loops.models(setting)[0], setting)
    row = loops.captured_row(runs, setting)
    assert row["gate"] == RED and "captures left" in row["note"]


BENCH_CSV = """part,model,work,contestant,value,gate
step,base,2 x 64 px,reference eager,1.0,{theirs}
step,base,2 x 64 px,glide_fast,0.5,{ours}
"""


@pytest.mark.parametrize(
    ("ran", "theirs", "ours", "state"),
    [
        (command.Ran(0, ""), GREEN, GREEN, GREEN),
        (command.Ran(0, ""), RED, GREEN, GREEN),  # another's error is its own affair
        (command.Ran(0, ""), GREEN, RED, RED),
        (command.Ran(1, "out of memory\n"), GREEN, GREEN, RED),
        (command.Ran(None, ""), GREEN, GREEN, UNFINISHED),
    ],
)
def test_a_case_is_as_its_command(
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    ran: command.Ran,
    theirs: str,
    ours: str,
    state: str,
) -> None:
    def run(arguments: list[str], seconds: float, environment: object) -> command.Ran:
        if ran.status == 0:
            Path(arguments[-1]).write_text(BENCH_CSV.format(theirs=theirs, ours=ours))
        return ran

    monkeypatch.setattr(command, "run", run)
    batch = commands.Batch(commands.bench("step", [("base", 2)]))
    outcome = commands.run("step", lambda setting: batch, setting)
    assert outcome.state == state
    rows = read(setting.folder / "step.csv")
    assert [row["contestant"] for row in rows] == (
        ["reference eager", "glide_fast"] if ran.status == 0 else []
    )
    assert all(row["case"] == "base 2" and row["device"] for row in rows)


@pytest.mark.parametrize(("foreign", "last"), [(True, GREEN), (False, RED)])
def test_a_command_that_never_ends(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, foreign: bool, last: str
) -> None:
    monkeypatch.setattr(command, "run", lambda *_: command.Ran(None, ""))
    batch = commands.Batch(commands.bench("step", [("base", 2)], foreign=foreign))
    states = [commands.run("step", lambda setting: batch, setting).state for _ in range(3)]
    assert states == [UNFINISHED, last, last]
    short = setting._replace(until=time.monotonic() + 60)
    for _ in range(3):  # what was left of a part's time says nothing of a command
        assert commands.run("short", lambda setting: batch, short).state == UNFINISHED


def test_a_part_without_time_begins_nothing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("begun"))
    outcome = commands.run("step", commands.steps, setting._replace(until=time.monotonic() + 5))
    assert outcome.state == UNFINISHED and "to go on with tiny 2" in outcome.notes


@pytest.mark.parametrize("part", commands.PARTS, ids=lambda part: part.name)
def test_every_case_is_a_command_that_parses(part: Part, setting: Setting, tmp_path: Path) -> None:
    """Every case at full size has options that glide-fast knows, models that exist and a name of its own."""
    group: Any = typer.main.get_command(app)
    batch = part.run.args[1](setting._replace(small=False))  # type: ignore[attr-defined]
    assert len({case.name for case in batch.cases}) == len(batch.cases)
    for case in batch.cases:
        name, *arguments = case.arguments
        subcommand = group.commands[name]
        context = subcommand.make_context(name, [*arguments, "--csv", str(tmp_path / "rows.csv")])
        (models,) = (each.name for each in subcommand.params if "--model" in each.opts)
        for model in context.params[models]:
            assert model in PRESETS or model == "small" or Path(model).is_dir()


def test_a_step_is_measured_by_its_command(setting: Setting) -> None:
    outcome = commands.run("step", commands.steps, setting)
    assert outcome == Outcome(GREEN, (setting.folder / "step.csv",)), outcome.notes
    rows = read(setting.folder / "step.csv")
    assert {row["model"] for row in rows} == {"tiny base", "tiny upsampler"}
    assert "glide_fast" in {row["contestant"] for row in rows}
    assert all(float(row["value"]) > 0 and row["gate"] == GREEN for row in rows)


def in_this_process(arguments: list[str], seconds: float, environment: object) -> command.Ran:
    """``python -m glide_fast ...`` without the seconds that a process takes to start."""
    result = CliRunner().invoke(app, arguments[3:])
    return command.Ran(result.exit_code, result.output)


@pytest.mark.parametrize("part", commands.PARTS[1:], ids=lambda part: part.name)
def test_commands_from_end_to_end(part: Part, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", in_this_process)
    outcome = part.run(setting)
    assert outcome == Outcome(GREEN, (setting.folder / f"{part.name}.csv",)), outcome.notes
    rows = read(setting.folder / f"{part.name}.csv")
    assert rows and all(row["case"].startswith("tiny") and row["commit"] for row in rows)
    assert part.run(setting) == outcome  # kept


def test_the_makefile_runs_the_suite() -> None:
    said = subprocess.run(
        ["make", "-n", "gpu", "PARTS=build tests"],
        cwd=command.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-m benchmarks.gpu build tests" in said
