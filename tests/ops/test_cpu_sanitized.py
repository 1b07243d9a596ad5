"""The CPU kernels under AddressSanitizer and UBSan, for each instruction set of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import cpu_sanitized

from glide_fast.ops import native

library = native.load()
# Their kernels have no tiles: with "amx" they run what is compiled for "avx512_bf16".
ISAS = ["portable"] if library is None else [isa for isa in library.isas() if isa != "amx"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if cpu_sanitized.COMPILER is None:
        pytest.skip("needs a C++ compiler to build the CPU kernels with sanitizers; there is none")
    return cpu_sanitized.build(tmp_path_factory.mktemp("cpu_sanitized"), ISAS)


@pytest.mark.parametrize("isa", ISAS)
def test_kernels_stay_inside_their_memory_and_write_all_of_it(program: Path, isa: str) -> None:
    done = subprocess.run([str(program), isa, "80", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr[-4000:]
