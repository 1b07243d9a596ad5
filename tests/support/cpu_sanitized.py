"""Compiles the CPU kernels of csrc and tests/cpu_sanitized/driver.cpp with AddressSanitizer and UBSan."""

from __future__ import annotations

import hashlib
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "cpu_sanitized" / "driver.cpp"
CSRC = ROOT / "csrc"
SOURCES = ("group_norm_act/cpu", "guided_step/cpu", "resample/cpu", "convolution/winograd")
SHARED = ("cpu/cache", "cpu/isa", "cpu/pages")
COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
# Unoptimised: compiling is six times as fast, and the program is still fast enough for the examples that are drawn.
SANITIZE = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def flags_of_setup() -> tuple[list[str], dict[str, str]]:
    """The compiler's options of the package's build, and the instruction sets."""
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    x86 = platform.machine() in ("x86_64", "AMD64")
    return shlex.split(setup["CXX_FLAGS"]), setup["X86_FLAGS"] if x86 else {"portable": ""}


def build(folder: Path) -> Path:
    """The path of the program; its object files are kept in the temporary folder, named by the hash of their sources."""
    assert COMPILER is not None
    common, isas = flags_of_setup()
    command = [COMPILER, *common, *SANITIZE, "-Werror", f"-I{CSRC}"]
    units: list[tuple[Path, list[str]]] = [(DRIVER, [])]
    units += [(CSRC / f"{name}.cpp", []) for name in (*SHARED, *SOURCES)]
    for name in SOURCES:
        kernel = CSRC / f"{name}.kernel.cpp"
        units += [(kernel, [f"-DGLIDE_FAST_ISA={isa}", *shlex.split(flags)]) for isa, flags in isas.items()]
    headers = b"".join(path.read_bytes() for path in sorted(CSRC.rglob("*.h")))

    def compiled(unit: tuple[Path, list[str]]) -> Path:
        source, flags = unit
        digest = hashlib.sha256(shlex.join([*command, *flags]).encode() + headers + source.read_bytes())
        path = Path(tempfile.gettempdir()) / f"glide_fast_{os.getuid()}_{digest.hexdigest()[:20]}.o"
        if not path.exists():
            fresh = path.with_suffix(f".{os.getpid()}.o")
            subprocess.run([*command, *flags, "-c", str(source), "-o", str(fresh)], check=True)
            fresh.rename(path)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units))
    program = folder / "cpu_sanitized"
    subprocess.run([*command, *map(str, objects), "-o", str(program)], check=True)
    return program
