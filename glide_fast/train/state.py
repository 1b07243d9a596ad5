"""A run's directory: its settings, its log, and the checkpoint it goes on from.

``config.json`` holds the settings, ``log.jsonl`` a line every few steps, ``checkpoint.pt`` everything needed to repeat the
rest of the run to the last bit. The checkpoint is replaced atomically: a kill at any moment leaves the previous one.
``train.lock`` is locked by the process that trains.
"""

from __future__ import annotations

import errno
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from glide_fast.checkpoints import atomic_write, write_text
from glide_fast.checkpoints.claimed_sizes import tensors, why_no_torch_zip, why_too_large
from glide_fast.checkpoints.directory import RUN_CHECKPOINT_NAME, RUN_LOCK_NAME, RUN_MODEL_NAME, naming
from glide_fast.checkpoints.json_text import MAX_BYTES, parse_json
from glide_fast.checkpoints.paths import open_regular, read_small
from glide_fast.errors import CheckpointError, InvalidInputError, invalid
from glide_fast.models.config import check_options
from glide_fast.train.config import TrainConfig

STATE = ("step", "model", "average", "optimizer", "scaler")
"""What a checkpoint holds."""


class RunDirectory:
    """Reads and writes a run's files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.log_path = self.path / "log.jsonl"
        self.checkpoint_path = self.path / RUN_CHECKPOINT_NAME
        self.lock_path = self.path / RUN_LOCK_NAME
        self.samples_path = self.path / "samples"
        self.export_path = self.path / RUN_MODEL_NAME

    def config(self) -> TrainConfig | None:
        """The run's settings, or None where no run has started here."""
        if not self.config_path.exists():
            return None
        try:
            values = parse_json(read_small(self.config_path, MAX_BYTES))
        except OSError as error:
            raise InvalidInputError(f"{self.config_path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InvalidInputError(f"{self.config_path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise invalid(str(self.config_path), values, "the settings of a training run, by name")
        try:
            return TrainConfig.from_json(values)
        except InvalidInputError as error:
            raise InvalidInputError(f"{self.config_path}: {error}") from error

    def lock(self) -> FileLock:
        """Make the directory and lock it for this trainer; the lock ends with ``release()``, or with the process however it ends.

        It is the file system's (``flock``): it holds between processes of one machine, and between machines where the file
        system passes locks on, as NFS does. InvalidInputError where another trainer has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # For all threads, since a trainer may be created in one thread and run in another.
        lock = FileLock(self.lock_path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise invalid(
                "directory",
                str(self.path),
                "another directory, or this one when its trainer has ended: one is training in it now",
            ) from None
        return lock

    def check(self, config: TrainConfig, *, extend: bool = False) -> None:
        """InvalidInputError where no run can be, or one is that ``config`` would not continue, naming what differs.

        With ``extend`` the number of steps may differ.
        """
        if self.path.exists() and not self.path.is_dir():
            raise invalid("directory", str(self.path), "a directory, or the name of a new one")
        existing = self.config()
        differing = {} if existing is None else existing.differences(config)
        if extend:
            differing.pop("steps", None)
        if differing:
            changes = "; ".join(
                f"{name}: {old!r} there, {new!r} now" for name, (old, new) in differing.items()
            )
            more = " To train on to another step, extend it (--extend-to, or resume with extend_to)."
            error = InvalidInputError(
                f"{self.path} holds a run with other settings ({changes}). Repeat them, or use another directory."
                + (more if "steps" in differing else "")
            )
            error.listed = tuple(name.partition("[")[0] for name in differing)
            raise error

    def start(self, config: TrainConfig) -> None:
        """Record the settings of a new run, or of one that goes on."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config_path, json.dumps(config.to_json(), indent=1) + "\n")

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, or None where there is none yet."""
        if not self.checkpoint_path.exists():
            return None
        try:
            with open_regular(self.checkpoint_path) as file:
                fault = why_no_torch_zip(file)
                length = file.seek(0, 2)
                file.seek(0)
                state: Any = None if fault else torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle can end in any of them
            # What torch says here advises to switch its safety off, so it is left to the traceback.
            raise CheckpointError(
                f"{self.checkpoint_path} is damaged or not a torch checkpoint; delete it to start over"
            ) from error
        fault = fault or why_too_large(state, length)
        if fault is not None:
            raise CheckpointError(f"{self.checkpoint_path} is not a training checkpoint: {fault}")
        missing = [name for name in STATE if not isinstance(state, dict) or name not in state]
        if missing:
            raise CheckpointError(
                f"{self.checkpoint_path} is not a training checkpoint: it has no {', '.join(missing)}"
            )
        fault = _fault(state)
        if fault is not None:
            raise CheckpointError(f"{self.checkpoint_path} is not a training checkpoint: {fault}")
        return state

    def newest_model(self) -> tuple[dict[str, Any], dict[str, torch.Tensor], int]:
        """Checked options, averaged weights and step of the run's newest checkpoint, also while the run goes on.

        CheckpointError naming the file where settings or checkpoint cannot be read, or are none that a run writes.
        """
        try:
            config = self.config()
        except InvalidInputError as error:  # which names the file
            raise CheckpointError(str(error)) from error
        state = self.load()
        if config is None or state is None:
            raise CheckpointError(f"{self.path} holds a training run that has not saved a checkpoint yet")
        average = state["average"]
        options = config.build_options(len(average["token_embedding.weight"]))
        with naming(self.config_path):
            check_options(options)
        return options, average, state["step"]

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; CheckpointError, and the previous one still there, where it cannot be written."""
        try:
            # Torch opens no file by name here: its own writer reports a full disk without saying that it is one.
            with atomic_write(self.checkpoint_path) as temporary, temporary.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            full = _errno(error) == errno.ENOSPC
            reason = "the disk is full" if full else str(error).partition("\n")[0]
            raise CheckpointError(
                f"{self.checkpoint_path} was not written: {reason}. The previous checkpoint, if any, is unchanged"
            ) from error

    def rewind_log(self, step: int) -> None:
        """Drop the log's lines from ``step`` on, which a resumed run will write again, and any half-written one."""
        if not self.log_path.exists():
            return
        kept = []
        for line in self.log_path.read_text("utf-8").splitlines():
            try:
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                break
        write_text(self.log_path, "".join(kept))

    def drop_samples(self, step: int) -> None:
        """Remove the sample grids of steps after ``step``: an extended run may never have the weights they were drawn with."""
        for file in self.samples_path.glob("*.png"):
            if re.fullmatch("[0-9]{7,}", file.stem) and int(file.stem) > step and file.is_file():
                file.unlink()

    def log(self, record: dict[str, Any]) -> None:
        """Append one line."""
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _fault(state: dict[str, Any]) -> str | None:
    """What in a checkpoint no run has written; None where all has the types that it is used with."""
    step = state["step"]
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return f"its step is {reprlib.repr(step)}, not an integer of at least 0"
    for name in STATE[1:]:
        if not isinstance(state[name], Mapping):
            return f"its {name} is of type {type(state[name]).__name__}, not a mapping"
    odd = next((name for name, tensor in tensors(state) if _is_odd(tensor)), None)
    if odd is not None:
        return f"its {odd} is not a dense tensor"
    average = state["average"]
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in average.items()):
        return "its average is not made of tensors by name"
    embedding = average.get("token_embedding.weight")
    if embedding is None or embedding.dim() != 2:
        return "its average has no token_embedding.weight of two dimensions"
    return None


def _is_odd(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its values in another way than parameters and their optimizer's state do."""
    dense = tensor.layout == torch.strided and not tensor.is_nested
    return not dense or tensor.is_quantized or tensor.is_meta


def _errno(error: BaseException | None) -> int | None:
    """The operating system's number for an error, or for the one that it was raised in answer to."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__context__
    return None
