"""Compiles every configuration of the Triton kernels that ships, without a GPU, and reads the machine code.

    python -m glide_fast.kernels.compile_report --out benchmarks/results/static/triton.csv

Registers, the stack and shared memory come from the compiled binary; spills are its instructions on thread-local memory;
occupancy is calculated from these and the limits of a multiprocessor. Nothing is run and nothing is timed.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import group_norm_act, text_attention
from .build import Build

TARGETS = (80, 90, 100)
SHARED_PER_MULTIPROCESSOR = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
SHARED_PER_PROGRAM = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
REGISTERS = 65536
WARPS = 64
PROGRAMS = 32
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

BASE = (
    *((64, 192), (64, 384), (32, 192), (32, 384), (32, 576), (32, 768), (32, 960)),
    *((16, 384), (16, 576), (16, 960), (16, 1152), (16, 1344), (8, 576), (8, 768), (8, 1344), (8, 1536)),
)
UPSAMPLER = ((256, 192), (256, 384), (128, 192), (128, 384), (64, 384), (64, 576), (64, 768))
ATTENTION = ((6, 1024), (9, 256), (12, 64))  # heads and tokens of the base model's levels


class Row(NamedTuple):
    """One line of the report."""

    kernel: str
    configuration: str
    constants: str
    target: str
    warps: int
    stages: int
    registers: int
    stack_bytes: int
    spill_instructions: int
    shared_bytes: int
    tensor_cores: str  # the instructions used
    programs_per_multiprocessor: int
    occupancy: float  # warps resident, of those that fit
    triton: str
    commit: str


def default_builds() -> list[Build]:
    """What a guided sampling run of one prompt in fp16 launches most: the base model at batch 2, the upsampler at 1."""
    found = [
        *group_norm_act.builds(2, 64 * 64, 192, 32),
        *group_norm_act.builds(2, 8 * 8, 768, 32),
        *group_norm_act.builds(1, 256 * 256, 192, 32),
    ]
    for heads, tokens in ATTENTION:
        found += text_attention.builds(2, heads, 64, tokens, 128)
    found += text_attention.builds(2, 6, 64, 1024, 128, channels_last=False)
    found += text_attention.builds(32, 6, 64, 1024, 128)
    return found


def shipped_builds() -> list[Build]:
    """GLIDE's shapes at the batch sizes that are benchmarked, in both 16-bit types and, at batch 2, in fp32."""
    found = default_builds()
    for element, batches in (("fp16", (2, 8, 32)), ("bf16", (2,)), ("fp32", (2,))):
        for samples in batches:
            for size, channels in BASE:
                found += group_norm_act.builds(samples, size * size, channels, 32, element)
            for heads, tokens in ATTENTION:
                for channels_last in (True, False):
                    found += text_attention.builds(samples, heads, 64, tokens, 128, element, channels_last)
        for size, channels in UPSAMPLER:
            found += group_norm_act.builds(1, size * size, channels, 32, element)
        for head in (32, 128):
            found += text_attention.builds(2, 8, head, 128, 0, element)
            found += text_attention.builds(64, 8, head, 1024, 77, element)
            found += text_attention.builds(1, 8, head, 77, 0, element)
    return found


def distinct(builds: list[Build]) -> list[Build]:
    """Without those that would compile to the same code."""
    seen: dict[Any, Build] = {}
    for build in builds:
        key = (build.kernel.__name__, tuple(build.arguments.items()), tuple(build.constants.items()))
        seen.setdefault((*key, build.warps, build.stages), build)
    return list(seen.values())


def compiled(build: Build, target: int) -> Any:
    """The kernel, compiled for compute capability ``target`` (80 is 8.0)."""
    names = build.kernel.arg_names
    signature = {name: build.arguments.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in build.aligned}
    source = ASTSource(build.kernel, signature, dict(build.constants), attributes)
    options = {"num_warps": build.warps, "num_stages": build.stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def programs_per_multiprocessor(target: int, warps: int, registers: int, shared: int) -> int:
    """How many programs fit at once: registers go to a warp in units of 256, and a program's shared memory costs 1 KiB more."""
    by_registers = REGISTERS // (warps * -(-registers * 32 // 256) * 256)
    by_shared = SHARED_PER_MULTIPROCESSOR[target] // (-(-shared // 128) * 128 + 1024)
    return min(by_registers, by_shared, WARPS // warps, PROGRAMS)


def examine(build: Build, target: int, commit: str = "") -> Row:
    """Compile one configuration and read what became of it."""
    binary = compiled(build, target)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _output(TOOLS / "cuobjdump", "-res-usage", file.name)
        code = _output(TOOLS / "nvdisasm", "-c", file.name)
    figures = dict(re.findall(r"\b(REG|STACK):(\d+)", usage))
    registers, shared = int(figures["REG"]), int(binary.metadata.shared)
    programs = programs_per_multiprocessor(target, build.warps, registers, shared)
    return Row(
        kernel=build.kernel.__name__,
        configuration=build.label,
        constants=" ".join(f"{name}={value}" for name, value in build.constants.items()),
        target=f"sm_{target}",
        warps=build.warps,
        stages=build.stages,
        registers=registers,
        stack_bytes=int(figures["STACK"]),
        spill_instructions=len(re.findall(r"\b(?:LDL|STL)\b", code)),
        shared_bytes=shared,
        tensor_cores=" ".join(
            sorted(set(re.findall(r"\b(?:wgmma\.mma_async|tcgen05\.mma|mma\.sync)\b", binary.asm["ptx"])))
        ),
        programs_per_multiprocessor=programs,
        occupancy=round(programs * build.warps / WARPS, 3),
        triton=triton.__version__,
        commit=commit,
    )


def report(builds: list[Build], targets: tuple[int, ...] = TARGETS, workers: int = 1) -> Iterator[Row]:
    """:func:`examine` for every distinct configuration and target."""
    commit = _commit()
    with ThreadPoolExecutor(workers) as pool:
        work = [(build, target) for build in distinct(builds) for target in targets]
        yield from pool.map(lambda one: examine(one[0], one[1], commit), work)


def write(file: Path, rows: Iterator[Row]) -> int:
    """Write the rows as CSV as they come; returns how many configurations spill."""
    file.parent.mkdir(parents=True, exist_ok=True)
    spilling = 0
    with file.open("w", newline="", encoding="utf-8") as sink:
        table = csv.writer(sink)
        table.writerow(Row._fields)
        for row in rows:
            table.writerow(row)
            sink.flush()
            spilling += row.spill_instructions > 0
    return spilling


def _output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def _commit() -> str:
    """The source's commit, "+" where a kernel differs from it; empty outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        commit = _output("git", "-C", here, "rev-parse", "--short", "HEAD").strip()
        return commit + ("+" if _output("git", "-C", here, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write")
    parser.add_argument("--all", action="store_true", help="every shape of GLIDE, not just the default ones")
    parser.add_argument("--workers", type=int, default=1, help="compilations at a time")
    arguments = parser.parse_args()
    builds = shipped_builds() if arguments.all else default_builds()
    spilling = write(arguments.out, report(builds, workers=arguments.workers))
    print(f"{arguments.out}: {spilling} configurations spill")


if __name__ == "__main__":
    main()
