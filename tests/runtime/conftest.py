"""Every kind of model."""

from __future__ import annotations

import pytest
from support.small_unets import KINDS


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of small UNet."""
    return str(request.param)
