"""The emulated processor that tests of csrc/attention/cpu.amx.cpp rely on, who may use tiles, and the kernel's machine code."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support import amx_emulated

from glide_fast.ops import native

OBJDUMP = shutil.which("objdump")
library = native.load()


@pytest.fixture(scope="module")
def program() -> Path:
    if amx_emulated.COMPILER is None:
        pytest.skip("needs g++ on an x86-64 processor to compile the emulated one; there is none")
    sources = (amx_emulated.EMULATED / "checks.cpp", amx_emulated.CSRC / "cpu" / "amx.cpp")
    flags = ["-O0", *amx_emulated.KERNEL]
    return amx_emulated.compiled("amx_checks", *([str(source), *flags] for source in sources), link=[])


@pytest.mark.parametrize("check", ["usable", "product"])
def test_it_does_what_the_manual_says(program: Path, check: str) -> None:
    """Of tiles of any shape; and a process uses them where the processor and the system let it, and asks nowhere else."""
    assert subprocess.run([str(program), check]).returncode == 0


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("unconfigured", "#UD: tiles that are not configured"),
        ("palette", "#GP: LDTILECFG of a palette"),
        ("reserved", "#GP: LDTILECFG with"),
        ("rows", "#GP: LDTILECFG of more than 16 rows"),
        ("bytes", "#GP: LDTILECFG of rows longer"),
        ("no rows", "#GP: LDTILECFG of a tile without rows"),
        ("a ninth", "#GP: LDTILECFG of more tiles"),
        ("fit", "#UD: TDPBF16PS of shapes that do not fit"),
        ("twice", "#UD: TDPBF16PS of one tile twice"),
        ("eighth", "#UD: a tile that is not configured"),
        ("released", "#UD: tiles that are not configured"),
    ],
)
def test_it_refuses_what_the_processor_would(program: Path, mistake: str, said: str) -> None:
    done = subprocess.run([str(program), mistake], capture_output=True, text=True)
    assert done.returncode == 70 and said in done.stderr


@pytest.mark.skipif(library is None, reason=str(native.why_missing()))
def test_the_library_says_whether_tiles_may_be_used() -> None:
    assert library is not None
    assert isinstance(library.amx_usable(), bool)
    assert library.amx_usable() or "amx" not in library.isas()


@pytest.mark.skipif(OBJDUMP is None, reason="needs objdump (binutils) to read machine code")
@pytest.mark.skipif(library is None, reason=str(native.why_missing()))
def test_inner_loops_are_tile_instructions_and_spill_nothing() -> None:
    """Of heads of 64 in the library as it was built: a block's products, and its weights."""
    record = native.build_record()
    if record is None or "amx" not in record["cpu_targets"]:
        pytest.skip("the library was compiled without AMX")
    assert library is not None and OBJDUMP is not None
    symbols = subprocess.run(
        [OBJDUMP, "-t", library.__file__], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for name in ("multiply_keysILi2E", "multiply_valuesILi2E", "weighILi6E"):
        symbol = re.search(
            rf"^\S+ .*\.text\s+\S+\s+(?:\.hidden )?(\S*3amx\S*ILi64EE\d+{name}\S*)$", symbols, re.MULTILINE
        )
        assert symbol is not None, name
        found[name] = subprocess.run(
            [OBJDUMP, "-d", "--no-show-raw-insn", f"--disassemble={symbol[1]}", library.__file__],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert not re.search(r"zmm\d+,.*\(%r[sb]p|\(%r[sb]p.*%zmm", found[name]), name
    products = found["multiply_keysILi2E"]
    # 32 queries, 32 keys, 64 channels: eight products, of which each two share an operand; nothing else touches tiles.
    counts = {name: products.count(name) for name in ("tdpbf16ps", "tileloadd", "tilestored", "tilezero")}
    assert counts == {"tdpbf16ps": 8, "tileloadd": 8, "tilestored": 4, "tilezero": 4}
    assert "tdpbf16ps" in found["multiply_valuesILi2E"]
    # Of six vectors of logits a query: nothing is computed twice.
    counts = {
        name: found["weighILi6E"].count(name)
        for name in ("vreduceps", "vfmadd", "vscalefps", "vcvtne2ps2bf16")
    }
    assert counts == {"vreduceps": 6, "vfmadd": 18, "vscalefps": 6, "vcvtne2ps2bf16": 3}
