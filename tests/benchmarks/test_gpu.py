"""The GPU suite itself, on a CPU: parts, their states and files, and that nothing wrong is called green."""

from __future__ import annotations

import functools
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch
import typer
from typer.testing import CliRunner

from benchmarks import __main__ as ops_command
from benchmarks.contests import Done
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import command, compile_kernels, order
from benchmarks.gpu.part import GREEN, LONGEST, RED, UNFINISHED, Outcome, Part, Setting, conclude
from benchmarks.gpu.parts import (
    build,
    commands,
    kernels,
    loops,
    ops,
    parts,
    peak,
    precision,
    sanitizer,
    tests,
    training,
    tune,
)
from benchmarks.gpu.tiny import pipeline
from glide_fast.bench import ceilings, profiled
from glide_fast.bench.provenance import provenance
from glide_fast.bench.record import read
from glide_fast.bench.subject import Subject, subjects
from glide_fast.cli.commands import app
from glide_fast.models.config import PRESETS
from glide_fast.ops.case import Tolerance

SMALL = ["--device", "cpu", "--small", "--out"]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting("cpu", tmp_path, provenance("cpu"), small=True)


def states(folder: Path) -> dict[str, str]:
    return {row["part"]: row["state"] for row in read(folder / "parts.csv")}


@pytest.fixture
def quick_part(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Part]]:
    """Makes parts that only say what came of them; the suite consists of these."""
    made: list[Part] = []
    monkeypatch.setattr(gpu, "parts", lambda setting: tuple(made))
    monkeypatch.setattr(order, "rank", lambda name: [part.name for part in made].index(name))

    def part(name: str, state: str = GREEN, seconds: float = 10.0, took: float = 0.0, **options: Any) -> Part:
        def run(setting: Setting) -> Outcome:
            RAN.append(name)
            CLOCK[0] += took
            return Outcome(STATES.get(name, state))

        made.append(Part(name, "a part", run, seconds, **{"in_process": True, **options}))
        return made[-1]

    yield part
    RAN.clear()
    STATES.clear()


RAN: list[str] = []
STATES: dict[str, str] = {}
CLOCK = [0.0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler's clock goes on where a part says so."""
    CLOCK[0] = 1000.0
    monkeypatch.setattr(gpu.time, "monotonic", lambda: CLOCK[0])


def test_a_part_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, with a part that runs in this one."""
    assert gpu.main([*SMALL, str(tmp_path), "ceilings"]) == 0
    assert "== ceilings: GREEN" in capfd.readouterr().out
    assert states(tmp_path) == {"ceilings": GREEN}
    rows = read(tmp_path / "ceilings.csv")
    assert all(row[name] for row in rows for name in ("when", "device", "torch", "commit", "code", "value"))
    assert gpu.main([*SMALL, str(tmp_path), "--list"]) == 0
    assert capfd.readouterr().out.count(GREEN) == 1


def test_every_part_has_a_place_a_name_of_its_own_and_fits_its_time(setting: Setting) -> None:
    for small in (True, False):
        made = order.ordered(parts(setting._replace(small=small)))
        names = [part.name for part in made]
        assert len(names) == len(set(names)) and all(part.about and part.seconds > 0 for part in made)
        assert LONGEST + gpu.GRACE < 9 * 60 + 30
        groups = list(dict.fromkeys(name.split(" ")[0] for name in names))
        assert groups[:4] == ["build", "kernels", "tests", "tune"] and groups[-2:] == ["sanitizer", "soak"]
    assert names[4:8] == ["step base 2", "profile base 2", "step upsample 1", "profile upsample 1"]
    assert names.index("compiled step base 2") > names.index("training")
    assert set(order.ORDER) <= {" ".join(name.split(" ")[:n]) for name in names for n in range(1, 5)}


def test_a_group_of_parts_has_a_name(setting: Setting) -> None:
    made = parts(setting._replace(small=False))
    assert all(part.name.startswith("step ") for part in gpu.selected(made, ["step"]))
    assert [part.name for part in gpu.selected(made, ["step base 2", "tests"])] == ["tests", "step base 2"]
    assert len(gpu.selected(made, [])) == len(made)
    with pytest.raises(KeyError):
        gpu.selected(made, ["ste"])
    with pytest.raises(ValueError, match="not in the order"):
        order.rank("nonsense")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*SMALL, "somewhere", "nonsense"], "no part nonsense; the parts are build"),
        (["--device", "cpu"], "add --small"),
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
    part = Part("fragile", "it dies", lambda setting: Outcome(GREEN), 1.0)
    monkeypatch.setattr(command, "run", lambda *_: ran)
    earlier = setting._replace(facts=setting.facts | {"when": "2001-01-01T00:00:00Z"})
    gpu.note(earlier, part, Outcome(GREEN), 1.0)  # an older green does not hide it
    assert gpu.attempt(part, setting, 5.0)["state"] == RED
    (row,) = read(setting.folder / "parts.csv")
    assert row["state"] == RED and said in row["notes"]


def test_the_command_ends_as_its_parts_do(tmp_path: Path, quick_part: Callable[..., Part]) -> None:
    quick_part("one")
    quick_part("two", UNFINISHED)
    assert gpu.main([*SMALL, str(tmp_path)]) == gpu.EXIT_UNFINISHED
    STATES["two"] = RED
    assert gpu.main([*SMALL, str(tmp_path)]) == 1
    assert RAN == ["one", "two", "two"]  # what is green is not run again
    STATES["two"] = GREEN
    assert gpu.main([*SMALL, str(tmp_path), "--again"]) == 0
    assert RAN[3:] == ["one", "two"]


def test_nothing_is_begun_that_would_not_end(
    tmp_path: Path, quick_part: Callable[..., Part], clock: None, capsys: pytest.CaptureFixture[str]
) -> None:
    quick_part("long", seconds=100, took=100)
    quick_part("too long", seconds=400)
    quick_part("short", seconds=10, took=10)
    quick_part("goes on", seconds=400, least=20, took=50)
    quick_part("late", seconds=30)
    assert gpu.main([*SMALL, str(tmp_path), "--minutes", "3"]) == gpu.EXIT_UNFINISHED
    assert RAN == ["long", "short", "goes on"]
    assert "too long: not begun: takes about 400 s, 80 s are left" in capsys.readouterr().out
    assert states(tmp_path) == dict.fromkeys(RAN, GREEN)  # what was not begun has no row


def test_estimates_follow_what_was_measured(
    tmp_path: Path, quick_part: Callable[..., Part], clock: None
) -> None:
    quick_part("first", seconds=10, took=20)  # this machine takes twice as long as expected
    quick_part("second", seconds=40)
    assert gpu.main([*SMALL, str(tmp_path), "--minutes", "1.5"]) == gpu.EXIT_UNFINISHED
    assert RAN == ["first"]
    first, second = gpu.parts(None)  # type: ignore[arg-type]
    made = order.Estimates([first, second], [])
    assert made.seconds(second) == 40 and made.needs(second) == pytest.approx(48)
    made.note("first", 20)
    assert made.speed == 2 and made.seconds(second) == 80 and made.seconds(first) == 20
    made.note("first", 1e6)
    assert made.speed == order.SPEEDS[1]
    known = [
        {"part": "second", "state": GREEN, "seconds": "7"},
        {"part": "first", "state": RED, "seconds": "1"},
    ]
    assert order.Estimates([first, second], known).seconds(second) == 7
    assert order.Estimates([first, second], known).needs(second._replace(least=3.0)) == 3.0


def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path, quick_part: Callable[..., Part]) -> None:
    def killed(setting: Setting) -> Outcome:
        setting.table("killed", ("name",)).add({"name": "half", "gate": GREEN})
        raise KeyboardInterrupt

    quick_part("one")
    made = quick_part("killed")
    with pytest.raises(KeyboardInterrupt):
        setting = Setting("cpu", tmp_path, provenance("cpu"), small=True)
        gpu.run([gpu.parts(setting)[0], made._replace(run=killed)], setting, 1.0, kept=True)
    assert states(tmp_path) == {"one": GREEN}
    assert [row["name"] for row in read(tmp_path / "checks.csv")] == ["half"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checks.csv", "parts.csv"]


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


def test_a_build_of_these_sources_is_kept(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"loads": True, "why_not": None, "sources": build.sources()}
    built: list[str | None] = []

    def rebuild(wanted: str | None, seconds: float) -> command.Ran:
        built.append(wanted)
        return command.Ran(0, "")

    monkeypatch.setattr(build, "ask", lambda: (record, ""))
    monkeypatch.setattr(build, "build", rebuild)
    assert build.run(setting) == Outcome(GREEN, (setting.folder / "build.json",)) and not built
    record["sources"] = "others"
    assert build.run(setting).state == GREEN and built == [None]


def test_setup_records_the_same_hash_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    assert runpy.run_path(str(command.ROOT / "setup.py"))["digest"]() == build.sources()


@pytest.mark.parametrize(
    ("lines", "state", "said", "shown"),
    [
        (
            "def test_good(): pass\n@pytest.mark.skip(reason='no peer')\ndef test_other(): pass",
            GREEN,
            "test_other: no peer",
            "",
        ),
        ("def test_bad(): assert 0\ndef test_killed(): import os; os._exit(5)", RED, "", "test_bad (call)"),
    ],
    ids=["passed", "killed"],
)
def test_test_files_are_run_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], lines: str, state: str, said: str, shown: str
) -> None:
    """In a process each; what fails is shown when it fails, whatever becomes of the process."""
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n{lines}\n")
    row = tests.one(str(file), [], 60)
    assert row["gate"] == state and said in row["note"] and shown in capfd.readouterr().out


def test_failures_are_counted_by_name(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase name='test_a'/><testcase name='test_b'><failure/></testcase>"
        "<testcase name='test_c'><error/></testcase><testcase name='test_d'><skipped message='why'/></testcase>"
        "</testsuite></testsuites>"
    )
    counted = tests.count(report)
    assert counted == (1, ("test_b", "test_c"), ("test_d: why",))
    assert tests.judged(command.Ran(1, "2 failed"), counted)["note"] == (
        "failed: test_b, test_c; 2 failed; skipped: test_d: why"
    )
    skipped = tests.judged(command.Ran(0, ""), tests.Counted(0, (), ("test_d: why",)))
    assert skipped["gate"] == RED and "no test passed" in skipped["note"]
    assert tests.judged(command.Ran(None, ""), tests.Counted(3, (), ()))["note"] == "the time was up"


def test_files_run_at_the_same_time_and_what_the_time_was_up_for_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(2)

    def one(file: str, marked: Sequence[str], seconds: float) -> dict[str, str]:
        meeting.wait(20)  # each is under way while the other is
        return dict.fromkeys(("passed", "failed", "skipped"), "1") | {
            "gate": RED if file == "b" else GREEN,
            "note": "bad" if file == "b" else "",
        }

    monkeypatch.setattr(tests, "files", lambda marked, seconds: ["a", "b"])
    monkeypatch.setattr(tests, "one", one)
    monkeypatch.setattr(tests, "AT_A_TIME", 2)
    facts = dict.fromkeys(("when", "device", "torch", "commit", "code"), "x")
    setting = Setting(device="cuda", folder=tmp_path, facts=facts)
    outcome = tests.run(setting)
    assert (outcome.state, outcome.notes) == (RED, ("b: bad",))
    monkeypatch.setattr(tests, "files", lambda marked, seconds: ["c"])
    late = tests.run(setting._replace(until=0.0, again=True))
    assert (late.state, late.notes) == (UNFINISHED, ("to go on with c",))


def test_the_marked_tests_are_found(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("import pytest\n@pytest.mark.gpu\ndef test_it(): pass\ndef test_other(): pass\n")
    (found,) = tests.files(["-m", "gpu", str(file)], 120)
    assert found.endswith("test_it.py")


SANITIZER = """#!/bin/sh
while [ "$1" != "{python}" ]; do shift; done
echo "========= COMPUTE-SANITIZER"
{body}
"""


@pytest.mark.parametrize(
    ("body", "state", "said"),
    [
        ('echo "========= ERROR SUMMARY: 0 errors"', GREEN, "0 errors"),
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
    row = sanitizer.one(str(program), "memcheck", "masked_attention", setting)
    assert row["gate"] == state and said in row["note"]


def test_the_sanitizers_calls_are_a_command(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the seconds that a process takes to start."""

    def run(arguments: list[str], seconds: float, environment: object) -> command.Ran:
        assert arguments[:3] == [sys.executable, "-m", "benchmarks"]
        return command.Ran(ops_command.main(arguments[3:]), capsys.readouterr().out)

    monkeypatch.setattr(command, "run", run)
    for ran, state in ((3, GREEN), (0, RED)):  # what no backend ran says nothing of the kernels
        done = Done(1, 0, (), False, ran)
        monkeypatch.setattr(ops_command.contests, "run_suite", lambda *_, done=done, **__: done)
        row = sanitizer.one(None, "no tool", "masked_attention", setting)
        assert row["gate"] == state, row["note"]
    assert "no backend of masked_attention ran" in row["note"]


def test_an_error_before_the_time_was_up_is_red(tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    assert conclude(file, [], "the rest") == Outcome(UNFINISHED, (file,), ("to go on with the rest",))
    assert conclude(file, ["it is wrong"], "the rest").state == RED
    assert conclude(file, ["it is wrong"]).state == RED
    assert conclude(file, []) == Outcome(GREEN, (file,))


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
    assert ops.run("guided_step", False, setting).state == state


def test_an_op_that_nothing_ran_is_red(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.suites, "found", lambda: {"masked_attention": None})
    monkeypatch.setattr(ops, "run_suite", lambda *_, **__: Done(1, 0, (), False))
    outcome = ops.check(setting)
    assert outcome == Outcome(RED, (setting.folder / "ops.csv",), ("no backend of masked_attention ran",))
    monkeypatch.setattr(ops, "run_suite", lambda *_, **__: Done(1, 0, ("it is wrong",), True))
    assert ops.check(setting).state == RED


def test_training_that_diverges_tells_no_throughput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverges:
        def __init__(self, *_: object) -> None:
            pass

        def train_step(self) -> dict[str, float]:
            return {"loss": float("nan"), "grad_norm": 1.0}

    monkeypatch.setattr(training, "Trainer", Diverges)
    row = training.measure(training.TINY, "cpu", tmp_path, steps=2)
    assert row["gate"] == "red" and row["images_per_s"] == "refused"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny pipeline."""
    return pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tiny_models(tiny: Path) -> list[Subject]:
    """A base model and an upsampler."""
    return subjects([str(tiny)])


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch, tiny_models: list[Subject]) -> Callable[..., None]:
    """Lets parts measure only some of the tiny models, without collecting this whole session's garbage in between."""

    def only(*names: str) -> None:
        chosen = [model for model in tiny_models if model.name in names]
        for module in (loops, peak, precision):
            monkeypatch.setattr(module, "models", lambda setting: chosen)

    monkeypatch.setattr(loops.gc, "collect", lambda: 0)
    return only


BASE, UPSAMPLER = "tiny base", "tiny upsampler"


@pytest.mark.parametrize(
    ("run", "name", "models"),
    [
        (peak.run, "peak", [BASE]),
        (loops.capture, "capture", [BASE]),
        (loops.soak, "soak", [UPSAMPLER]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_whole_models_from_end_to_end(
    run: Callable[[Setting], Outcome], name: str, models: list[str], setting: Setting, of: Callable[..., None]
) -> None:
    of(*models)
    outcome = run(setting)
    assert outcome == Outcome(GREEN, (setting.folder / "checks.csv",)), outcome.notes
    rows = setting.table(name, ()).rows
    assert {row["model"] for row in rows} == set(models) and all(row["gate"] == GREEN for row in rows)
    assert run(setting) == outcome  # kept


@pytest.mark.parametrize(("name", "models"), [("accuracy-steps", [UPSAMPLER]), ("accuracy-loops", [BASE])])
def test_errors_of_models_from_end_to_end(
    name: str, models: list[str], setting: Setting, of: Callable[..., None]
) -> None:
    of(*models)
    (part,) = gpu.selected(precision.parts(setting), [name])
    outcome = part.run(setting)
    assert outcome == Outcome(GREEN, (setting.folder / "models.csv",)), outcome.notes
    rows = read(setting.folder / "models.csv")
    assert {row["contestant"] for row in rows} == {
        f"{name} {dtype}" for name in ("torch", "glide_fast") for dtype in ("bfloat16", "float32")
    }
    assert len({row["work"] for row in rows}) == (3 if name == "accuracy-steps" else 1)
    assert part.run(setting) == outcome and read(setting.folder / "models.csv") == rows  # kept


def test_models_are_tiny_ones_where_the_suite_is_only_tried(setting: Setting) -> None:
    assert [model.name for model in loops.models(setting)] == [BASE, UPSAMPLER]


def test_the_same_picture(setting: Setting, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr(precision, "MODEL", str(tiny))
    assert precision.same_picture(setting).state == GREEN
    assert {row["stage"] for row in read(setting.folder / "checks.csv")} == {"base", "upsampler"}
    monkeypatch.setattr(precision, "SAME", {torch.float32: float("inf")})
    monkeypatch.setattr(precision, "psnr", lambda got, want: 20.0)
    assert precision.same_picture(setting._replace(again=True)).state == RED


def test_an_error_beyond_torchs_own_is_red(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, of: Callable[..., None]
) -> None:
    of(BASE)
    monkeypatch.setattr(precision, "LOOP", Tolerance(margin=0.0, floor=0.0))
    (part,) = gpu.selected(precision.parts(setting), ["accuracy-loops"])
    outcome = part.run(setting)
    assert outcome.state == RED and outcome.notes == ("tiny base, loop of 2 steps: glide_fast bfloat16",)


def test_a_picture_that_changes_is_red(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, of: Callable[..., None]
) -> None:
    of(BASE)
    run, calls = loops.Runs.run, []

    def drifts(self: loops.Runs, variant: int) -> torch.Tensor:
        calls.append(variant)
        return run(self, variant) + (len(calls) > 6)

    monkeypatch.setattr(loops.Runs, "run", drifts)
    assert loops.soak(setting).state == RED


def test_captures_that_keep_memory_are_red(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, of: Callable[..., None]
) -> None:
    of(BASE)
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
def test_a_part_is_as_its_command(
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    ran: command.Ran,
    theirs: str,
    ours: str,
    state: str,
) -> None:
    def run(arguments: list[str], seconds: float, environment: object) -> command.Ran:
        Path(arguments[-1]).write_text(BENCH_CSV.format(theirs=theirs, ours=ours))
        return ran

    monkeypatch.setattr(command, "run", run)
    (asked,) = commands.bench("step", [("base", 2, 10)])
    assert commands.run(asked, setting).state == state
    # What a command had when it was ended is kept, too.
    rows = read(setting.folder / "models.csv")
    assert [row["contestant"] for row in rows] == ["reference eager", "glide_fast"]
    assert all(row["case"] == "step base 2" and row["device"] for row in rows)


@pytest.mark.parametrize(("foreign", "last"), [(True, GREEN), (False, RED)])
def test_a_command_that_never_ends(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, foreign: bool, last: str
) -> None:
    monkeypatch.setattr(command, "run", lambda *_: command.Ran(None, ""))
    (asked,) = commands.bench("step", [("base", 2, 10)], foreign=foreign)
    part = Part("step base 2", "a step", functools.partial(commands.run, asked), 10, in_process=True)
    assert [gpu.attempt(part, setting, LONGEST)["state"] for _ in range(2)] == [UNFINISHED, last]
    for _ in range(3):  # what was left of the time says nothing of a command
        assert gpu.attempt(part._replace(name="short"), setting, 60)["state"] == UNFINISHED


def test_every_command_parses(setting: Setting, tmp_path: Path) -> None:
    """Every command at full size has options that glide-fast knows, models that exist and a name of its own."""
    group: Any = typer.main.get_command(app)
    every = list(commands.commands(setting._replace(small=False)))
    assert len({asked.name for asked in every}) == len(every)
    for asked in every:
        name, *arguments = asked.arguments
        subcommand = group.commands[name]
        context = subcommand.make_context(name, [*arguments, "--csv", str(tmp_path / "rows.csv")])
        (models,) = (each.name for each in subcommand.params if "--model" in each.opts)
        for model in context.params[models]:
            assert model in PRESETS or model == "small" or Path(model).is_dir()
    small = {asked.arguments[:2] for asked in commands.small("tiny") if asked.arguments[0] == "bench"}
    assert small == {asked.arguments[:2] for asked in every if asked.arguments[0] == "bench"}


def in_this_process(arguments: list[str], seconds: float, environment: object) -> command.Ran:
    """``python -m glide_fast ...`` without the seconds that a process takes to start."""
    result = CliRunner().invoke(app, arguments[3:])
    return command.Ran(result.exit_code, result.output)


@pytest.mark.parametrize("name", ["step", "profile"])
def test_commands_from_end_to_end(name: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the other parts are tested with the command line."""
    monkeypatch.setattr(command, "run", in_this_process)
    monkeypatch.setattr(profiled, "COPY_MEGABYTES", 1)
    monkeypatch.setitem(ceilings.SIDES, "cpu", (64,))
    (part,) = gpu.selected(commands.parts(setting), [name])
    outcome = part.run(setting)
    file = setting.folder / ("profile.csv" if name == "profile" else "models.csv")
    assert outcome == Outcome(GREEN, (file,)), outcome.notes
    rows = read(file)
    assert {row["model"].split(",")[0] for row in rows} == {"tiny base", "tiny upsampler"}
    assert rows and all(row["case"].startswith(f"{name} tiny") and row["commit"] for row in rows)


def test_kernels_are_compiled_in_shares(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_kernels.suites, "found", lambda: {"masked_attention": None})
    ran, declined = compile_kernels.compile_share("cpu", 0, 2, small=True)
    if not torch.cuda.is_available():
        assert (ran, declined) == (0, 1)  # one of the two calls; Triton wants a GPU
    shares: list[str] = []

    def run(arguments: list[str], seconds: float, environment: object) -> command.Ran:
        shares.append(arguments[-1])
        return command.Ran(0, "12 calls compiled\n")

    monkeypatch.setattr(command, "run", run)
    assert kernels.run(setting).state == GREEN and sorted(shares) == ["0/2", "1/2"]
    monkeypatch.setattr(command, "run", lambda *_: command.Ran(1, "no\n"))
    assert kernels.run(setting).state == RED
    monkeypatch.setattr(command, "run", lambda *_: command.Ran(None, ""))
    assert kernels.run(setting).state == UNFINISHED


def test_the_makefile_runs_the_suite() -> None:
    said = subprocess.run(
        ["make", "-n", "gpu", "PARTS=build tests"],
        cwd=command.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-m benchmarks.gpu build tests" in said


def test_tuning_goes_on_in_the_next_run_until_every_call_is_measured(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []
    said = ["2 rows measured; 7 calls to go on with", "1 rows measured; 0 calls to go on with", "crashed"]

    def run(command_: Sequence[str], seconds: float) -> command.Ran:
        asked.append(command_)
        return command.Ran(1 if said[0] == "crashed" else 0, said.pop(0))

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(tune, "SHIPPED", setting.folder / "shipped")
    whole = setting._replace(small=False)
    states = [tune.run(whole) for _ in range(3)]
    assert [outcome.state for outcome in states] == [UNFINISHED, GREEN, RED]
    assert states[0].notes == ("7 calls to go on with",) and "crashed" in states[2].notes[0]
    assert str(setting.folder / "shipped") in " ".join(asked[0]) and "--minutes" in asked[0]
