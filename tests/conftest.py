"""What every test shares: `gpu` tests skip themselves without a device, and hypothesis does not time its examples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# Small models gain nothing from threads and lose much where two test processes share two cores.
torch.set_num_threads(1)

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("glide_fast", deadline=None)
settings.load_profile("glide_fast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch finds none here"))
