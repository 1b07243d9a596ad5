"""A small pipeline, and a run of the benchmarks that takes no time."""

from __future__ import annotations

from typing import Any

import pytest
from support.small_unets import KINDS
from support.tiny import write_pipeline

from glide_fast.bench.settings import Settings


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of small UNet."""
    return str(request.param)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of a base model and an upsampler."""
    return str(write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def settings(model: str) -> Settings:
    """Two samples of each contestant, on the CPU."""
    return quick(model)


def quick(model: str, **changes: Any) -> Settings:
    """The same with changes."""
    wanted: dict[str, Any] = {
        "models": (model,),
        "device": "cpu",
        "dtype": "fp32",
        "samples": 2,
        "seconds": 0.0,
        "steps": 2,
    }
    return Settings(**wanted | changes)
