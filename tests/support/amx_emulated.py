"""The AMX kernel of csrc/attention on an emulated processor, under the name that the native library has its functions by.

tests/cpu_emulated stands in for the compiler's <immintrin.h>; the sources are those that are shipped.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glide_fast.ops import native

ROOT = Path(__file__).resolve().parents[2]
CSRC, EMULATED = ROOT / "csrc", ROOT / "tests" / "cpu_emulated"
COMPILER = shutil.which("g++") if platform.machine() in ("x86_64", "AMD64") else None
ISA = "amx_emulated"
"""What tests call it where they name instruction sets."""
ISAS = [ISA] if COMPILER else []
COMMON = [
    *(
        "-std=c++17",
        "-fPIC",
        "-fopenmp",
        "-ffp-contract=off",
        f"-I{EMULATED}",
        f"-I{CSRC}",
        "-DGLIDE_FAST_AMX",
    ),
    # GCC speaks of how 64 bytes are passed between functions, which are all compiled here.
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
]
KERNEL = ["-D__AVX512F__", "-D__AVX512BF16__", "-DGLIDE_FAST_ISA=amx"]
GLUE = ("attention/cpu.cpp", "text_attention/cpu.cpp", "masked_attention/cpu.cpp")


def host_flags() -> list[str]:
    """Fused multiply-adds without calls, where this processor has them."""
    library = native.load()
    return ["-mavx2", "-mfma"] if library is not None and "avx2" in library.isas() else []


def compiled(name: str, *commands: list[str], link: list[str]) -> Path:
    """What the commands, a source and its flags each, are linked to; kept in the temporary folder under the hash of all."""
    assert COMPILER is not None
    digest = hashlib.sha256(repr((commands, link)).encode())
    sources = sorted([*EMULATED.iterdir(), *CSRC.rglob("*.h"), *(Path(command[0]) for command in commands)])
    for source in dict.fromkeys(sources):
        digest.update(source.read_bytes())
    path = Path(tempfile.gettempdir()) / f"glide_fast_{name}_{os.getuid()}_{digest.hexdigest()[:16]}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder:

        def one(numbered: tuple[int, list[str]]) -> str:
            made = f"{folder}/{numbered[0]}.o"
            subprocess.run(
                [COMPILER, *COMMON, *numbered[1][1:], "-c", numbered[1][0], "-o", made], check=True
            )
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(one, enumerate(commands)))
        fresh = path.with_suffix(f".{os.getpid()}")
        subprocess.run([COMPILER, "-fopenmp", *link, *objects, "-o", str(fresh)], check=True)
        fresh.rename(path)
    return path


@functools.cache
def _shared_library() -> Any:
    # More optimisation takes longer than the tests save by it.
    kernel = [str(CSRC / "attention" / "cpu.amx.cpp"), "-O1", *KERNEL, *host_flags()]
    glue = [[str(CSRC / source), "-O0"] for source in GLUE]
    path = compiled(
        "amx_emulated", kernel, *glue, [str(EMULATED / "library.cpp"), "-O0"],
        link=["-shared"],
    )  # fmt: skip
    library = ctypes.CDLL(str(path))
    for function in (library.text_attention_emulated, library.masked_attention_emulated):
        function.restype = ctypes.c_char_p
    return library


def _sizes(*values: int) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _checked(refusal: bytes | None) -> None:
    assert _shared_library().tiles_in_use() == 0, "a thread ended its work with tiles in use"
    if refusal is not None:
        raise ValueError(refusal.decode())


def _text_attention(qkv: int, text: int, y: int, dtype: int, *sizes_threads_isa: Any) -> None:
    *sizes, threads, isa = sizes_threads_isa
    pointers = (ctypes.c_void_p(address or None) for address in (qkv, text, y))
    _checked(
        _shared_library().text_attention_emulated(*pointers, dtype, _sizes(*sizes), threads, isa.encode())
    )


def _masked_attention(*arguments: Any) -> None:
    *parts, lengths, causal, dtype, samples, heads, head_size, queries, keys, threads, isa = arguments
    rows = _sizes(*(value for part in parts for value in part))
    _checked(
        _shared_library().masked_attention_emulated(
            rows, ctypes.c_void_p(lengths or None), int(causal), dtype,
            _sizes(samples, heads, head_size, queries, keys), threads, isa.encode(),
        )
    )  # fmt: skip


LIBRARY = SimpleNamespace(
    isas=lambda: ["amx"],
    amx_usable=lambda: True,
    text_attention=_text_attention,
    masked_attention=_masked_attention,
)
"""In place of ``glide_fast._C`` for the two ops."""


def run(backend: Any, call: Any, **options: Any) -> Any:
    """``backend.run(call, **options)``, by the emulated kernel where the options name it."""
    if options.get("isa") != ISA:
        return backend.run(call, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda: LIBRARY)
        return backend.run(call, **{**options, "isa": "amx"})
