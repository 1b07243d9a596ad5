"""Runs the CUDA kernels of csrc on the host, under AddressSanitizer and UBSan, through the shim in tests/cuda_shim."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
DRIVER = ROOT / "tests" / "cuda_shim" / "driver.cpp"
COMPILER = shutil.which("g++")
FLAGS = [
    *("-std=c++17", "-x", "c++", "-O1", "-g1", "-ffp-contract=off"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
]
TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Failed(Exception):
    """The program ended with an error; the message is its output."""


def build() -> Path:
    """The path of the compiled driver; it is kept in the temporary folder, named by the hash of its sources."""
    assert COMPILER is not None
    sources = sorted(
        [
            *DRIVER.parent.glob("*"),
            *(path for path in CSRC.rglob("*") if path.suffix in {".cu", ".cuh", ".h"}),
        ]
    )
    digest = hashlib.sha256("".join(FLAGS).encode())
    for source in sources:
        digest.update(source.read_bytes())
    program = Path(tempfile.gettempdir()) / f"glide_fast_cuda_host_{os.getuid()}_{digest.hexdigest()[:16]}"
    if not program.exists():
        fresh = program.with_suffix(f".{os.getpid()}")
        command = [COMPILER, *FLAGS, f"-I{DRIVER.parent}", f"-I{CSRC}", str(DRIVER), "-o", str(fresh)]
        subprocess.run(command, check=True)
        fresh.rename(program)
    return program


def run(
    program: Path,
    op: str,
    buffers: dict[str, torch.Tensor],
    results: tuple[str, ...],
    **values: int | float | str,
) -> tuple[str, dict[str, torch.Tensor]]:
    """One request: each buffer's elements in the order of memory, each value as a line.

    Returns the line that the program said, and the buffers in ``results`` as flat tensors.
    """
    said, rest, flat = _request(program, op, buffers, results, values)
    outputs, at = {}, 0
    for name in results:
        size = flat[name].nbytes
        data = bytearray(rest[at : at + size])
        outputs[name] = torch.frombuffer(data, dtype=flat[name].dtype)
        at += size
    assert at == len(rest)
    return said, outputs


def run_choices(
    program: Path,
    buffers: dict[str, torch.Tensor],
    choices: list[tuple[int, int, int, int, int]],
    **values: int | float | str,
) -> dict[tuple[int, int, int, int, int], torch.Tensor]:
    """group_norm_act's y, flat, for each choice of a plan that fits (one pass or not, slab, chunks, threads, held or not)."""
    values["choices"] = ";".join(",".join(map(str, choice)) for choice in choices)
    said, rest, flat = _request(program, "group_norm_act", buffers, (), values)
    fitting, size, dtype = list(map(int, said.split())), flat["y"].nbytes, flat["y"].dtype
    assert len(rest) == size * len(fitting)
    parts = (bytearray(rest[i * size : (i + 1) * size]) for i in range(len(fitting)))
    return {choices[i]: torch.frombuffer(part, dtype=dtype) for i, part in zip(fitting, parts, strict=True)}


def _request(
    program: Path,
    op: str,
    buffers: dict[str, torch.Tensor],
    results: tuple[str, ...],
    values: Mapping[str, int | float | str],
) -> tuple[str, bytes, dict[str, torch.Tensor]]:
    """The line that the program says, the bytes behind it, and the buffers as they were passed."""
    flat = {name: _flat(tensor) for name, tensor in buffers.items()}
    lines = [f"op {op}", f"results {','.join(results)}" if results else ""]
    lines += [f"{key} {int(value) if isinstance(value, bool) else value}" for key, value in values.items()]
    lines += [f"buffers {len(flat)}", *(f"{name} {tensor.nbytes}" for name, tensor in flat.items())]
    request = "\n".join(filter(None, lines)).encode() + b"\n"
    request += b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in flat.values())
    done = subprocess.run(
        [str(program)],
        input=request,
        capture_output=True,
        timeout=300,
        env={**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=0"},
    )
    if done.returncode:
        raise Failed(done.stderr.decode(errors="replace"))
    said, _, rest = done.stdout.partition(b"\n")
    return said.decode(), rest, flat


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.is_contiguous(), "pass memory in its own order"
    return tensor.reshape(-1)
