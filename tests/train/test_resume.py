"""A run that was stopped ends with the same bits as one that was not, however it was stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import MODEL, UPSAMPLER, train_config

from glide_fast.checkpoints import read_directory
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.train import Trainer, resume
from glide_fast.train.interrupt import DeferredInterrupt

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


def test_a_full_disk_leaves_the_previous_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(train_config(data), tmp_path / "run")
    trainer.files.save(trainer._state())
    before = trainer.files.checkpoint_path.read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError, match=r"No space left.*the previous checkpoint, if any, is unchanged"
    ):
        trainer.run(progress=False)
    assert trainer.files.checkpoint_path.read_bytes() == before
