"""A directory that is replaced while it is read: what is read is all old or all new."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glide_fast.checkpoints import atomic, directory, read_directory, save_directory


def save(path: Path, number: int) -> None:
    save_directory(path, "unet", {"number": number}, {"a": torch.full((2,), float(number))})


def replacing_first(path: Path, function: Any) -> Any:
    """``function``, in whose first call another process has just saved the directory anew."""
    calls: list[Any] = []

    def replaced(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            save(path, 2)
        return function(*arguments, **options)

    return replaced


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("place", ["read_state_dict", "read_small"])
def test_options_and_weights_are_of_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, can_exchange: bool
) -> None:
    path = tmp_path / "model"
    save(path, 1)
    if not can_exchange:
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    monkeypatch.setattr(directory, place, replacing_first(path, getattr(directory, place)))
    _, options, state = read_directory(path, mmap=False)
    assert options["number"] == state["a"][0].item() == 2


def test_the_previous_content_may_be_removed_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands between two renames, a reader having begun."""
    path = tmp_path / "model"
    save(path, 1)
    os.rename(path, tmp_path / ".model.previous")
    monkeypatch.setattr(directory, "read_small", replacing_first(path, directory.read_small))
    assert directory.open_directory(path).options == {"number": 2}
    assert not (tmp_path / ".model.previous").exists()


def test_a_directory_that_is_damaged_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save(path, 1)
    (path / "model.safetensors").unlink()
    with pytest.raises(directory.CheckpointError, match="does not exist"):
        read_directory(path)
    shutil.rmtree(path)
    with pytest.raises(directory.CheckpointError, match="does not exist"):
        read_directory(path)
