"""One small data set for all tests of the room, and one thread, whose sums have one order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.tiny import write_data_set

from glide_fast.data.dataset import SceneDataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="session")
def scenes(data: Path) -> SceneDataset:
    return SceneDataset(data)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
