from __future__ import annotations

from pathlib import Path

import pytest
from support import cuda_host


@pytest.fixture(scope="session")
def cuda_program() -> Path:
    """The CUDA kernels compiled for the host, with sanitizers."""
    if cuda_host.COMPILER is None:
        pytest.skip("needs g++ to compile the CUDA kernels for the host; there is none")
    return cuda_host.build()
