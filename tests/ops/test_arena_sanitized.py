"""The memory of steps under AddressSanitizer and UBSan, and under ThreadSanitizer."""

from __future__ import annotations

import platform
import shlex
import subprocess
from pathlib import Path

import pytest
from support.cpu_sanitized import COMPILER, ROOT, flags_of_setup


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler; there is none")
@pytest.mark.skipif(platform.system() != "Linux", reason="the memory of steps is written for Linux")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_blocks_are_disjoint_and_found_again(tmp_path: Path, sanitizers: str) -> None:
    assert COMPILER is not None
    program = tmp_path / "arena"
    sources = [ROOT / "tests" / "cpu_sanitized" / "arena.cpp", ROOT / "csrc" / "arena" / "arena.cpp"]
    common, _ = flags_of_setup()
    flags = ["-Werror", "-O1", "-g1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-pthread"]
    subprocess.run(
        [COMPILER, *common, *flags, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(program)],
        check=True,
    )
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "ok\n", f"{shlex.join(flags)}\n{done.stderr[-4000:]}"
