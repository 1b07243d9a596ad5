"""The CPU kernel of text_attention and masked_attention under AddressSanitizer and UBSan, for every instruction set here.

The driver beside this file gives it buffers that end with their last token, and the scratch memory that it asks for, full of NaN.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from support import amx_emulated
from support.cpu_sanitized import flags_of_setup

from glide_fast.ops import native

ROOT = Path(__file__).resolve().parents[3]
CSRC = ROOT / "csrc"
DRIVER = Path(__file__).with_name("cpu_sanitized.cpp")
COMPILER = shutil.which("g++")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = [
    *("-std=c++17", "-O1", "-ffp-contract=off", "-fopenmp", f"-I{CSRC}"),
    *SANITIZE,
    *("-Wall", "-Wextra", "-Werror", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
]


def build(isa: str) -> Path:
    """The driver for one instruction set; kept in the temporary folder under the hash of its sources."""
    assert COMPILER is not None
    flags = [*FLAGS, f"-DGLIDE_FAST_ISA={isa}", *flags_of_setup()[1][isa].split()]
    digest = hashlib.sha256(" ".join(flags).encode())
    for source in (DRIVER, *sorted(CSRC.rglob("*.h")), CSRC / "attention" / "cpu.kernel.cpp"):
        digest.update(source.read_bytes())
    program = Path(tempfile.gettempdir()) / f"glide_fast_sanitized_{os.getuid()}_{digest.hexdigest()[:16]}"
    if not program.exists():
        fresh = program.with_suffix(f".{os.getpid()}")
        subprocess.run([COMPILER, *flags, str(DRIVER), "-o", str(fresh)], check=True)
        fresh.rename(program)
    return program


def build_with_tiles() -> Path:
    """The driver with the AMX kernel, for the emulated processor."""
    flags = ["-O0", *SANITIZE, *amx_emulated.KERNEL, *amx_emulated.host_flags()]
    return amx_emulated.compiled("sanitized_amx", [str(DRIVER), *flags], link=SANITIZE)


@pytest.mark.skipif(COMPILER is None, reason="needs g++ to compile the kernel with sanitizers; there is none")
@pytest.mark.parametrize("isa", ["avx512_bf16", "avx512", "avx2", "portable", *amx_emulated.ISAS])
def test_no_access_is_out_of_bounds(isa: str) -> None:
    library = native.load()
    if isa not in [*(["portable"] if library is None else library.isas()), *amx_emulated.ISAS]:
        pytest.skip(f"this machine has no {isa}")
    # Leaks are not looked for: OpenMP keeps its threads until the process ends.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    program = build_with_tiles() if isa in amx_emulated.ISAS else build(isa)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    single, half = map(float, done.stdout.split())
    # Logits reach 40, values 2: roundings of the former in fp32; one of the result and its weights in bf16.
    assert single <= 1e-5 and half <= 2 * 1.2 * 2.0**-8
