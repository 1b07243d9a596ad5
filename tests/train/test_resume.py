"""A run that was stopped ends with the same bits as one that was not, however it was stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import MODEL, UPSAMPLER, train_config

from glide_fast.checkpoints import read_directory
from glide_fast.errors import CheckpointError, GlideFastError, InvalidInputError
from glide_fast.pipelines import GlidePipeline
from glide_fast.train import Trainer, resume
from glide_fast.train.interrupt import DeferredInterrupt
from glide_fast.train.loop import learning_rate
from glide_fast.train.state import RunDirectory

# Forks a run, kills it at a random moment, forks it again, until one gets to the end; prints the signals that ended each.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from support.tiny import train_config
from glide_fast.train import Trainer

torch.set_num_threads(1)
data, run, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for attempt in range(100):
    child = os.fork()
    if child == 0:
        Trainer(train_config(data, steps=steps), run).run(progress=False)
        os._exit(0)
    log = run / "log.jsonl"
    before = log.stat().st_size if log.exists() else 0
    while attempt < 3 and os.waitpid(child, os.WNOHANG)[0] == 0:
        if log.exists() and log.stat().st_size > before:
            time.sleep(random.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.002)
    try:
        status = os.waitpid(child, 0)[1]
    except ChildProcessError:
        status = 0
    print(os.waitstatus_to_exitcode(status), flush=True)
    if status == 0:
        break
"""


def log_without_speed(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    """The same log, optimiser state and weights, to the last bit."""
    assert log_without_speed(one) == log_without_speed(other)
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, other)]
    flat = [dict(leaves(state)) for state in states]
    assert flat[0].keys() == flat[1].keys()
    for name, value in flat[0].items():
        twin = flat[1][name]
        assert torch.equal(value, twin) if isinstance(value, torch.Tensor) else value == twin, name
    weights = [read_directory(run / "model")[2] for run in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def leaves(value: Any, name: str = "") -> Any:
    """(path, leaf) of nested dicts and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from leaves(item, f"{name}/{position}")
    else:
        yield name, value


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    steps = 24  # enough that a kill is not late where the machine is busy
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, str(data), str(tmp_path / "killed"), str(steps)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert killed.returncode == 0, killed.stderr
    ends = [int(line) for line in killed.stdout.split()]
    assert ends[0] == -signal.SIGKILL
    assert ends[-1] == 0
    Trainer(train_config(data, steps=steps), tmp_path / "whole").run(progress=False)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert not [file for file in (tmp_path / "killed").iterdir() if file.suffix == ".tmp"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C works here, also where the tests were started in a shell's background, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("model", [MODEL | {"inpaint": True}, UPSAMPLER])
@pytest.mark.parametrize("save_every", [2, 4])
def test_ctrl_c_in_the_middle_of_a_step_is_resumed_exactly(
    data: Path, tmp_path: Path, model: dict[str, Any], save_every: int
) -> None:
    config = train_config(data, model=model, save_every=save_every)
    Trainer(config, tmp_path / "whole").run(progress=False)
    stopped = Trainer(config, tmp_path / "stopped")
    steps = []

    def press_ctrl_c(*_: object) -> None:
        steps.append(stopped.step)
        if stopped.step == 2:
            signal.raise_signal(signal.SIGINT)  # the weights have moved, the average and the count have not

    stopped.optimizer.register_step_post_hook(press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(progress=False)
    assert steps == [0, 1, 2]
    resumed = resume(tmp_path / "stopped")
    assert resumed.step == 3
    resumed.run(progress=False)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_does_not_wait() -> None:
    with DeferredInterrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_left_alone_where_it_is_ignored_or_out_of_reach() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with DeferredInterrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
        assert not interrupt.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)

    def elsewhere() -> None:
        with DeferredInterrupt():
            handlers.append(signal.getsignal(signal.SIGINT))

    handlers: list[object] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [previous]


def test_a_finished_run_goes_no_further_and_exports_again(data: Path, tmp_path: Path) -> None:
    config = train_config(data, steps=2)
    Trainer(config, tmp_path / "run").run(progress=False)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    (tmp_path / "run" / "model" / "model.safetensors").unlink()
    resume(tmp_path / "run").run(progress=False)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log
    read_directory(tmp_path / "run" / "model")


def test_other_settings_are_refused_by_name_and_nothing_is_changed(data: Path, tmp_path: Path) -> None:
    Trainer(train_config(data, steps=1), tmp_path / "run").run(progress=False)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
    with pytest.raises(InvalidInputError) as raised:
        Trainer(train_config(data, steps=3, batch_size=2), tmp_path / "run")
    message = str(raised.value)
    assert "steps: 1 there, 3 now" in message
    assert "batch_size: 4 there, 2 now" in message
    assert "seed" not in message
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}


def test_how_often_to_log_and_save_may_change(data: Path, tmp_path: Path) -> None:
    Trainer(train_config(data), tmp_path / "run")
    changed = Trainer(train_config(data, log_every=3, save_every=5), tmp_path / "run")
    assert changed.files.config() == changed.config


def test_a_half_written_log_line_is_dropped_with_what_the_checkpoint_does_not_cover(
    data: Path, tmp_path: Path
) -> None:
    config = train_config(data)
    Trainer(config, tmp_path / "whole").run(progress=False)
    stopped = Trainer(config, tmp_path / "stopped")
    for _ in range(3):
        stopped.files.log({"step": stopped.step, "images_per_second": 1.0, **stopped.train_step()})
        if stopped.step == 2:
            stopped.files.save(stopped._state())
    with stopped.files.log_path.open("a") as log:
        log.write('{"step": 3, "los')
    stopped.close()
    resumed = resume(tmp_path / "stopped")
    assert resumed.step == 2
    assert [line["step"] for line in log_without_speed(tmp_path / "stopped")] == [0, 1]
    resumed.run(progress=False)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_corrupt_checkpoint_is_named_with_the_way_out(data: Path, tmp_path: Path) -> None:
    Trainer(train_config(data, steps=1), tmp_path / "run").run(progress=False)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    for damaged in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged .* delete it to start over"):
            resume(tmp_path / "run")
    torch.save({"step": 1, "model": {}}, checkpoint)
    with pytest.raises(
        CheckpointError, match="not a training checkpoint: it has no average, optimizer, scaler"
    ):
        resume(tmp_path / "run")


def test_a_checkpoint_of_another_model_is_refused(data: Path, tmp_path: Path) -> None:
    Trainer(train_config(data, steps=1), tmp_path / "run").run(progress=False)
    wider = train_config(data, steps=1, model=MODEL | {"num_channels": 32})
    (tmp_path / "run" / "config.json").write_text(json.dumps(wider.to_json()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt does not fit Text2ImUNet"):
        resume(tmp_path / "run")


def test_settings_that_cannot_be_read_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a directory in which a run was started"):
        resume(tmp_path)
    config = tmp_path / "config.json"
    config.write_text('{"model": ')
    with pytest.raises(InvalidInputError, match=r"config\.json is not valid JSON"):
        resume(tmp_path)
    config.write_text("[]")
    with pytest.raises(InvalidInputError, match="accepted: the settings of a training run, by name"):
        resume(tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint(data: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits the size of files as a full disk does")
    trainer = Trainer(train_config(data), tmp_path / "run")
    trainer.save()
    before = trainer.files.checkpoint_path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(
            CheckpointError,
            match=r"checkpoint\.pt was not written: .* The previous checkpoint, if any, is unch",
        ):
            trainer.run(progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert trainer.files.checkpoint_path.read_bytes() == before
    assert not [file for file in (tmp_path / "run").iterdir() if file.suffix == ".tmp"]
    resume(tmp_path / "run").run(progress=False)
    Trainer(train_config(data), tmp_path / "whole").run(progress=False)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_disk_that_is_full_is_called_that(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(train_config(data), tmp_path / "run")
    trainer.save()
    before = trainer.files.checkpoint_path.read_bytes()
    whole = torch.save

    def full(state: object, file: Any) -> None:
        class Full:
            def write(self, values: bytes) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        whole(state, Full())

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError,
        match=r"was not written: the disk is full\. The previous checkpoint, if any, is unchanged",
    ):
        trainer.run(progress=False)
    assert trainer.files.checkpoint_path.read_bytes() == before


# Forks a process for each call of the operating system that writing a checkpoint makes, and kills it there.
KILLED_WRITER = """
import os, shutil, signal, sys
from pathlib import Path
import torch
from support.tiny import train_config
from glide_fast.train import Trainer

torch.set_num_threads(1)
trainer = Trainer(train_config(Path(sys.argv[1])), sys.argv[2])
trainer.save()
checkpoint = trainer.files.checkpoint_path
old = checkpoint.read_bytes()
trainer.train_step()
trainer.files.checkpoint_path = checkpoint.with_name("new.pt")
trainer.save()
new = trainer.files.checkpoint_path.read_bytes()
trainer.files.checkpoint_path = checkpoint
assert old != new
calls = 0

def kill(frame, event, argument):
    global calls
    if event == "c_call" and getattr(argument, "__module__", None) in ("posix", "fcntl", "_io"):
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)

seen = []
for calls in range(1000):
    checkpoint.write_bytes(old)
    for folder in checkpoint.parent.glob(".*.tmp"):
        shutil.rmtree(folder)  # that of the writer killed before, so that each makes the same calls
    child = os.fork()
    if child == 0:
        sys.setprofile(kill)
        trainer.save()
        sys.setprofile(None)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    seen.append({old: "old", new: "new"}[checkpoint.read_bytes()])
    if status == 0:
        break
print(*seen)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_kill_at_any_call_of_a_checkpoints_writing_leaves_one_that_is_whole(
    data: Path, tmp_path: Path
) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(data), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    kinds = done.stdout.split()
    assert len(kinds) > 20
    assert kinds == sorted(kinds, reverse=True)  # "old" up to the rename, "new" from then on
    assert set(kinds) == {"old", "new"}


def test_a_second_trainer_is_refused_before_it_writes(data: Path, tmp_path: Path) -> None:
    first = Trainer(train_config(data), tmp_path / "run")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for second in (train_config(data), train_config(data, log_every=3)):
        with pytest.raises(
            InvalidInputError, match=r"directory: got .*run'; accepted: another .* is training"
        ):
            Trainer(second, tmp_path / "run")
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    first.run(progress=False)
    with pytest.raises(GlideFastError, match="this trainer has ended"):
        first.run(progress=False)
    resume(tmp_path / "run").close()
    forgotten = resume(tmp_path / "run")
    del forgotten
    resume(tmp_path / "run")


def test_another_process_holds_the_directory_until_it_is_killed(data: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from glide_fast.train.state import RunDirectory\n"
        "lock = RunDirectory(sys.argv[1]).lock()\n"
        "print('locked', flush=True)\n"
        "time.sleep(100)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InvalidInputError, match="is training"):
            Trainer(train_config(data), tmp_path / "run")
        assert os.listdir(tmp_path / "run") == ["train.lock"]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    Trainer(train_config(data), tmp_path / "run").close()


@pytest.mark.parametrize("save_every", [2, 100])
@pytest.mark.usefixtures("interruptible")
def test_a_preview_that_was_not_drawn_is_drawn_on_resuming(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    monkeypatch.setattr("glide_fast.train.loop.PREVIEW_STEPS", "2")
    config = train_config(data, sample_every=2, save_every=save_every)
    Trainer(config, tmp_path / "whole").run(progress=False)
    wanted = {file.name: file.read_bytes() for file in (tmp_path / "whole" / "samples").iterdir()}
    assert sorted(wanted) == ["0000002.png", "0000004.png", "0000006.png"]

    stopped = Trainer(config, tmp_path / "stopped")
    stopped.optimizer.register_step_post_hook(
        lambda *_: signal.raise_signal(signal.SIGINT) if stopped.step == 1 else None
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run(progress=False)
    assert list((tmp_path / "stopped").glob("samples/*")) == []
    for _ in range(2):  # the second has nothing left to do; a preview that is there is not drawn again
        resume(tmp_path / "stopped").run(progress=False)
        drawn = {file.name: file.read_bytes() for file in (tmp_path / "stopped" / "samples").iterdir()}
        assert drawn == wanted
    last = tmp_path / "stopped" / "samples" / "0000006.png"
    last.unlink()
    resume(tmp_path / "stopped").run(progress=False)
    assert last.read_bytes() == wanted["0000006.png"]


@pytest.mark.parametrize(("begun_with", "stopped_at"), [(6, 2), (4, 4)])
def test_an_extended_run_has_the_rate_of_its_new_length(
    data: Path, tmp_path: Path, begun_with: int, stopped_at: int
) -> None:
    whole = train_config(data, steps=8, decay_fraction=0.25)
    Trainer(whole, tmp_path / "whole").run(progress=False)
    run = tmp_path / "run"
    begun = Trainer(dataclasses.replace(whole, steps=begun_with), run)
    if stopped_at == begun_with:
        begun.run(progress=False)
    else:
        for _ in range(stopped_at):
            begun.files.log({"step": begun.step, "images_per_second": 1.0, **begun.train_step()})
        begun.save()
        begun.close()
    with pytest.raises(InvalidInputError, match=rf"extend_to: got {stopped_at - 1}; accepted: at least"):
        resume(run, extend_to=stopped_at - 1)
    assert resume(run).config.steps == begun_with  # a refused extension leaves the run as it was
    extended = resume(run, extend_to=8)
    assert extended.config == whole
    extended.run(progress=False)
    assert RunDirectory(run).config() == whole
    rates = [line["lr"] for line in log_without_speed(run)]
    assert rates[stopped_at:] == [learning_rate(whole, step) for step in range(stopped_at, 8)]
    if stopped_at < begun_with:
        assert_same_run(run, tmp_path / "whole")  # extended before the rate fell, it is the longer run


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigterm_waits_for_the_step_and_then_takes_its_course() -> None:
    seen: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), DeferredInterrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            assert interrupt.requested
            assert seen == []
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_a_run_that_goes_on_is_drawn_with_as_its_newest_checkpoint_is(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(train_config(data), run)
    with pytest.raises(CheckpointError, match="a training run that has not saved a checkpoint yet"):
        GlidePipeline.from_pretrained(run, device="cpu")
    for step in (1, 2):
        trainer.train_step()
        trainer.save()
        trained = GlidePipeline.from_pretrained(run, device="cpu", accelerate=False)
        assert trained.base is not None
        assert trained.settings["training_step"] == step
        wanted = trainer.average.model.state_dict()
        state = trained.base.model.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    trainer.run(progress=False)
    pictures = [
        GlidePipeline.from_pretrained(folder, device="cpu")(
            "a red square", seed=1, num_inference_steps=2, progress=False, output_type="np"
        ).images
        for folder in (run, run / "model")
    ]
    assert (pictures[0] == pictures[1]).all()


@pytest.fixture(scope="module")
def saved_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, with its checkpoint."""
    run = tmp_path_factory.mktemp("saved") / "run"
    trainer = Trainer(train_config(data), run)
    trainer.train_step()
    trainer.save()
    trainer.close()
    return run


@pytest.fixture
def changed_run(saved_run: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(saved_run, tmp_path / "run"))


TENSOR = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": "four"}, "its step is 'four', not an integer of at least 0"),
        ({"step": -1}, "its step is -1"),
        ({"step": True}, "its step is True"),
        ({"model": [1]}, "its model is of type list, not a mapping"),
        ({"optimizer": 3}, "its optimizer is of type int"),
        ({"scaler": None}, "its scaler is of type NoneType"),
        ({"average": {"a": TENSOR}}, "its average has no token_embedding.weight"),
        (
            {"average": {"token_embedding.weight": torch.tensor(1.0)}},
            "its average has no token_embedding.weight",
        ),
        ({"average": {"a": 1}}, "its average is not made of tensors by name"),
        ({"average": {1: TENSOR}}, "its average is not made of tensors by name"),
    ],
)
def test_a_checkpoint_that_no_run_wrote_is_refused_by_name(
    changed_run: Path, change: dict[str, Any], said: str
) -> None:
    checkpoint = changed_run / "checkpoint.pt"
    torch.save(torch.load(checkpoint, weights_only=True) | change, checkpoint)
    for load in (resume, RunDirectory.load):
        with pytest.raises(CheckpointError, match=rf"checkpoint\.pt is not a training checkpoint: {said}"):
            load(RunDirectory(changed_run) if load is RunDirectory.load else changed_run)
    with pytest.raises(CheckpointError, match=said):
        GlidePipeline.from_pretrained(changed_run, device="cpu")


HUGE = 2**17
CLAIMS = {
    "expanded": torch.zeros(1).expand(HUGE, HUGE),
    "sparse": torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (HUGE, HUGE), check_invariants=True
    ),
    "many names": [torch.zeros(2**18)[:]] * 64,
}


@pytest.mark.parametrize("part", ["optimizer", "average"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_checkpoint_that_claims_more_than_its_file_holds_is_refused(
    changed_run: Path, part: str, claim: str
) -> None:
    checkpoint = changed_run / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    if part == "average":
        state["average"]["token_embedding.weight"] = CLAIMS[claim]
    else:
        state["optimizer"]["state"][0]["exp_avg"] = CLAIMS[claim]
    torch.save(state, checkpoint)
    for load in (resume, lambda run: GlidePipeline.from_pretrained(run, device="cpu")):
        with pytest.raises(
            CheckpointError, match=r"checkpoint\.pt is not a training checkpoint: its tensors have"
        ):
            load(changed_run)


def test_a_sparse_tensor_of_any_size_is_no_part_of_a_checkpoint(changed_run: Path) -> None:
    checkpoint = changed_run / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    moment = state["optimizer"]["state"][0]["exp_avg"]
    state["optimizer"]["state"][0]["exp_avg"] = moment.to_sparse()
    torch.save(state, checkpoint)
    with pytest.raises(CheckpointError, match=r"its optimizer\.state\.0\.exp_avg is not a dense tensor"):
        resume(changed_run)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(changed_run: Path) -> None:
    checkpoint = changed_run / "checkpoint.pt"
    with zipfile.ZipFile(checkpoint) as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            packed.writestr(name, content)
    with pytest.raises(CheckpointError, match="is compressed, which torch does to none"):
        resume(changed_run)


@pytest.mark.parametrize(
    "optimizer", [{}, {"state": {}, "param_groups": []}, {"state": 3, "param_groups": [{"params": None}]}]
)
def test_an_optimizer_of_another_model_is_refused(changed_run: Path, optimizer: dict[str, Any]) -> None:
    checkpoint = changed_run / "checkpoint.pt"
    torch.save(torch.load(checkpoint, weights_only=True) | {"optimizer": optimizer}, checkpoint)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: its optimizer does not fit the run's"):
        resume(changed_run)


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        (
            {"num_channels": 2048},
            {},
            "num_channels is 2048, and checkpoint.pt has the weights of a model with 16",
        ),
        ({"num_channels": 3200}, {}, "num_channels is 3200|above|parameters"),
        ({"xf_layers": 60}, {}, "xf_layers is 60"),
        ({"norm_groups": 3}, {}, "norm_groups"),
        ({"image_size": 0}, {}, "image_size"),
        ({"dropout": 10**400}, {}, "dropout"),
        ({"chanels": 1}, {}, "chanels"),
        ({}, {"learning_rate": 10**400}, "learning_rate"),
    ],
)
def test_a_runs_settings_are_checked_against_its_weights_before_anything_is_built(
    changed_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    settings: dict[str, Any],
    said: str,
) -> None:
    file = changed_run / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"model": values["model"] | model} | settings))

    def built(*_: object, **__: object) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr("glide_fast.pipelines.stage.build", built)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*({said})"):
        GlidePipeline.from_pretrained(changed_run, device="cpu")


def test_samples_of_steps_that_the_checkpoint_does_not_cover_are_dropped(changed_run: Path) -> None:
    samples = changed_run / "samples"
    samples.mkdir()
    names = [
        "0000000.png",
        "0000001.png",
        "0000002.png",
        "0000010.png",
        "10000000.png",
        "notes.png",
        "2.png",
        "0000003.txt",
    ]
    for name in names:
        (samples / name).touch()
    (samples / "0000009.png").mkdir()
    resume(changed_run).close()
    left = {"0000000.png", "0000001.png", "notes.png", "2.png", "0000003.txt", "0000009.png"}
    assert {file.name for file in samples.iterdir()} == left
