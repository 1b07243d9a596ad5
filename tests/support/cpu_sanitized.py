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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "cpu_sanitized" / "driver.cpp"
CSRC = ROOT / "csrc"
SOURCES = ("group_norm_act/cpu", "guided_step/cpu", "resample/cpu", "convolution/winograd")
SHARED = ("cpu/cache", "cpu/isa", "cpu/pages")
COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def flags_of_setup() -> tuple[list[str], dict[str, str]]:
    """The compiler's options of the package's build, and the instruction sets."""
    with mock.patch("setuptools.setup"):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    x86 = platform.machine() in ("x86_64", "AMD64")
    return shlex.split(setup["CXX_FLAGS"]), setup["X86_FLAGS"] if x86 else {"portable": ""}


def build(folder: Path, runnable: Sequence[str]) -> Path:
    """The program, with sanitizers in all but the kernels for instruction sets that are not ``runnable`` here.

    Objects are kept in the temporary folder under a hash of their sources and commands, which hold no path of this checkout.
    """
    assert COMPILER is not None
    common, isas = flags_of_setup()
    # Unoptimised: it runs long enough for what is drawn, and compiles six times as fast.
    command = [COMPILER, *common, "-O0", "-g1", "-Werror", "-I."]
    units: list[tuple[Path, list[str]]] = [(DRIVER, [*SANITIZE])]
    units += [(CSRC / f"{name}.cpp", [*SANITIZE]) for name in (*SHARED, *SOURCES)]
    for isa, flags in isas.items():
        own = [f"-DGLIDE_FAST_ISA={isa}", *shlex.split(flags), *(SANITIZE if isa in runnable else ())]
        units += [(CSRC / f"{name}.kernel.cpp", own) for name in SOURCES]
    headers = b"".join(path.read_bytes() for path in sorted(CSRC.rglob("*.h")))

    def compiled(unit: tuple[Path, list[str]]) -> Path:
        source, flags = unit
        whole = [*command, *flags, "-c", os.path.relpath(source, CSRC)]
        digest = hashlib.sha256(shlex.join(whole).encode() + headers + source.read_bytes())
        path = Path(tempfile.gettempdir()) / f"glide_fast_{os.getuid()}_{digest.hexdigest()[:20]}.o"
        if not path.exists():
            fresh = path.with_suffix(f".{os.getpid()}.o")
            subprocess.run([*whole, "-o", str(fresh)], check=True, cwd=CSRC)
            fresh.rename(path)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, units))
    program = folder / "cpu_sanitized"
    subprocess.run([*command, *SANITIZE, *map(str, objects), "-o", str(program)], check=True, cwd=CSRC)
    return program
