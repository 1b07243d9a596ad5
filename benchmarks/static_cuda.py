"""Compiles the CUDA kernels of csrc for every target, without a GPU, and reads the machine code.

    python -m benchmarks.static_cuda --out benchmarks/results/static

``cuda.csv`` has a row for every kernel: registers, the stack and static shared memory are what cuobjdump reads out of the
binary; spills are the instructions on thread-local memory. ``cuda_plans.csv`` has a row for every shape of GLIDE: how
group_norm_act is laid over the device, with the shared memory that is asked for at launch. Occupancy is calculated. Nothing is
run and nothing is timed. Needs nvcc, and the cuobjdump and nvdisasm of a CUDA toolkit or of Triton; for ``cuda_plans.csv`` the
native library with its CUDA half.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from glide_fast.kernels.occupancy import DEVICES, WARPS, blocks_per_multiprocessor

from benchmarks import norm_model
from glide_fast.bench.record import write
from glide_fast.ops import native
from glide_fast.ops.case import fake_calls
from glide_fast.ops.group_norm_act import cuda
from glide_fast.ops.group_norm_act.native_arguments import arguments

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
SOURCES = {"group_norm_act/cuda.cu": (), "guided_step/cuda.cu": ("-fmad=false",)}
"""The sources, with the flags that setup.py adds to the common ones for each."""
TARGETS = ("80", "90a", "100")
LARGEST_CLUSTER = 16
NEEDS_CLUSTERS = "one_pass"
"""The first word of the names of kernels with an empty body, never launched, on devices without clusters."""
FORMS = ("once", "spread", "mean")
"""What becomes of a result, in the order of csrc/group_norm_act/output.cuh."""
CODES = {"f": "fp32", "6__half": "fp16", "13__nv_bfloat16": "bf16"}


class Row(NamedTuple):
    """One line of the report."""

    kernel: str
    element: str
    vector: int  # elements that a thread moves at a time
    target: str
    registers: int
    stack_bytes: int
    instructions: int  # of all paths
    spill_instructions: int
    shared_bytes: int  # static shared memory
    threads: int  # the most threads of a block
    blocks_per_multiprocessor: int  # blocks of so many threads that fit, without dynamic shared memory
    occupancy: float  # resident warps, as a fraction of those that a multiprocessor can hold
    nvcc: str
    commit: str


class PlanRow(NamedTuple):
    """How the work of one shape, in fp16, is divided over one device."""

    shape: str
    target: str
    kernels: str
    threads: int  # of a block
    channels: int  # of a block
    cluster: int  # blocks in a cluster
    blocks: int  # in the grid of each kernel
    registers: int  # of the kernel that needs more
    shared_bytes: int  # of a block
    blocks_per_multiprocessor: int
    occupancy: float
    waves: float  # how many times all blocks that fit on the device at once
    predicted_us: float  # by the model of an H100's latencies
    nvcc: str
    commit: str


class MissingTool(Exception):
    """A program of the CUDA toolkit is not installed; the message names it."""


def find(tool: str) -> str:
    """Where a program of the CUDA toolkit is."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    candidates = [tool, f"{home}/bin/{tool}"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        candidates.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / tool))
    for candidate in candidates:
        if path := shutil.which(candidate):
            return path
    raise MissingTool(f"no {tool} found (CUDA toolkit; set CUDA_HOME)")


def _output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def _entry(mangled: str) -> tuple[str, str, int] | None:
    """A kernel's name, element type and vector, from its mangled name (``...8one_passI6__halfLi8ELb1ELNS0_4FormE0EE...``).

    The name says whether registers hold the rows, and what becomes of the result.
    """
    found = re.search(
        r"4cuda\d+(\w+?)I(f|6__half|13__nv_bfloat16)Li(\d+)E(?:Lb(\d)E)?(?:LNS\w*_4FormE(\d)E)?E", mangled
    )
    if found:
        held = {None: "", "0": " shared", "1": " held"}[found[4]]
        form = "" if found[5] is None else f" {FORMS[int(found[5])]}"
        return found[1] + held + form, CODES[found[2]], int(found[3])
    return ("guided_step", "any", 4) if "7advance" in mangled else None


def _constant(file: str, name: str) -> int:
    """An integer constant of a file of csrc."""
    text = (CSRC / file).read_text(encoding="utf-8")
    found = re.search(rf"constexpr int {name} = (\d+);", text)
    assert found is not None
    return int(found[1])


def _threads(kernel: str) -> int:
    """The threads of the kernel's largest block, to which the compiler fits its registers."""
    if kernel == "guided_step":
        return _constant("guided_step/cuda.cu", "threads")
    return _constant("group_norm_act/plan.h", "max_threads")


def capability(target: str) -> int:
    """90 of "90a" and of "sm_90a"."""
    return int(target.removeprefix("sm_").rstrip("af"))


def report(targets: tuple[str, ...] = TARGETS) -> Iterator[Row]:
    """A row for every kernel and target."""
    nvcc, cuobjdump, nvdisasm = find("nvcc"), find("cuobjdump"), find("nvdisasm")
    version = re.findall(r"release ([\d.]+)", _output(nvcc, "--version"))[-1]
    try:
        commit = _output("git", "-C", ROOT, "describe", "--always", "--dirty=+").strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "code.cubin"
        for source, flags_of_it in SOURCES.items():
            for target in targets:
                flags = (
                    "-std=c++17",
                    "-O3",
                    f"-I{CSRC}",
                    f"-gencode=arch=compute_{target},code=sm_{target}",
                    "-cubin",
                )
                _output(nvcc, *flags, *flags_of_it, CSRC / source, "-o", cubin)
                usage = _output(cuobjdump, "-res-usage", cubin)
                disassembly = _output(nvdisasm, "-c", cubin)
                spills, instructions = _spills(disassembly), _instructions(disassembly)
                for name, figures in re.findall(r"Function ([^\s:]+):\s*\n?\s*(REG:.*)", usage):
                    entry = _entry(name)
                    if entry is None or (entry[0].split()[0] == NEEDS_CLUSTERS and target == "80"):
                        continue
                    numbers = {
                        key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", figures)
                    }
                    warps = _threads(entry[0]) // 32
                    shape = (capability(target), warps, numbers["REG"], numbers["SHARED"])
                    blocks = blocks_per_multiprocessor(*shape)
                    yield Row(
                        *entry,
                        target=f"sm_{target}",
                        registers=numbers["REG"],
                        stack_bytes=numbers["STACK"],
                        instructions=instructions[name],
                        spill_instructions=spills[name],
                        shared_bytes=numbers["SHARED"],
                        threads=_threads(entry[0]),
                        blocks_per_multiprocessor=blocks,
                        occupancy=round(blocks * warps / WARPS, 3),
                        nvcc=version,
                        commit=commit,
                    )


TYPICAL = """
    g.silu = true;
    g.dtype = g.out_dtype = g.x_bias.dtype = Dtype::f16;
    g.weight.dtype = g.bias.dtype = g.scale.dtype = g.shift.dtype = Dtype::f32;
    g.residual.data = g.sum.data = nullptr;
    g.x_channels = g.channels;
    plan.pieces = 1;
"""
"""What a call with a bias, FiLM and SiLU decides, as most of GLIDE's second norms do. The compiler drops the other paths."""
BODIES = {
    "one_pass held once": "one_pass_block<__half, 8, true, Form::once>(g, plan, eps);",
    "one_pass shared once": "one_pass_block<__half, 8, false, Form::once>(g, plan, eps);",
    "statistics": "statistics_block<__half, 8>(g, plan, parts);",
    "result once": "result_block<__half, 8, Form::once>(g, plan, eps, parts);",
}


def paths(target: str = "90a") -> dict[str, int]:
    """How many instructions of each kernel are left where the options of a typical call are fixed, of fp16.

    Each counts once, in loops too; what a warp that has come apart needs to shuffle (out of the way of others) is among them.
    """
    kernels = "".join(
        f"__global__ void __launch_bounds__(max_threads) path_{i}(GroupNormAct g, Plan plan, float eps, Moments* parts)"
        f" {{{TYPICAL}{body}}}\n"
        for i, body in enumerate(BODIES.values())
    )
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "paths.cu", Path(folder) / "paths.cubin"
        source.write_text(
            f'#include "group_norm_act/cuda.cuh"\nnamespace glide_fast::cuda {{\n{kernels}}}\n',
            encoding="utf-8",
        )
        flags = (
            "-std=c++17",
            "-O3",
            f"-I{CSRC}",
            f"-gencode=arch=compute_{target},code=sm_{target}",
            "-cubin",
        )
        _output(find("nvcc"), *flags, source, "-o", cubin)
        counts = _instructions(_output(find("nvdisasm"), "-c", cubin))
    found = {int(re.findall(r"path_(\d)", name)[0]): count for name, count in counts.items()}
    return {kernel: found[i] for i, kernel in enumerate(BODIES)}


def glide_shapes() -> list[tuple[int, int, int, int]]:
    """Samples, positions, channels of both inputs together, and groups, of every norm that models run on a GPU."""
    calls = fake_calls("group_norm_act", torch.float16, "cuda")
    return sorted({(call.x.shape[0], call.positions, call.channels, call.groups) for call in calls})


def plans(rows: list[Row]) -> Iterator[PlanRow]:
    """A row for every shape that GLIDE's models norm and target of ``rows``, in fp16."""
    library = native.load()
    if library is None or not hasattr(library, "cuda"):
        raise MissingTool("the native library was built without CUDA, and it knows the plans")
    for target in dict.fromkeys(row.target for row in rows):
        facts = DEVICES[capability(target)]
        device = library.cuda.Device(
            facts.multiprocessors, facts.shared_of_a_block, LARGEST_CLUSTER if facts.clusters else 0
        )
        for n, positions, c, groups in glide_shapes():
            side = math.isqrt(positions)
            call = norm_model.call_of(n, c, side)
            assert call.groups == groups
            choice, us = cuda.predicted(call, device)[0]
            given = library.GroupNormAct(*arguments(call, call.empty_result()).values())
            yield _plan_row(
                f"[{n}, {c}, {side}, {side}]", n, target, cuda.complete(given, device, choice), us, rows
            )


def _plan_row(shape: str, samples: int, target: str, plan: Any, us: float, rows: list[Row]) -> PlanRow:
    kernels = (
        (f"one_pass {'held' if plan.held else 'shared'} once",)
        if plan.one_pass
        else ("statistics", "result once")
    )
    wanted = {(kernel, "fp16", plan.vector, target) for kernel in kernels}
    used = [row for row in rows if (row.kernel, row.element, row.vector, row.target) in wanted]
    registers = max(row.registers for row in used)
    static = max(row.shared_bytes for row in used)
    fitting = blocks_per_multiprocessor(
        capability(target), plan.threads // 32, registers, plan.shared_bytes + static
    )
    blocks = samples * plan.slabs * plan.chunks
    return PlanRow(
        shape=shape,
        target=target,
        kernels=", ".join(kernels),
        threads=plan.threads,
        channels=plan.slab,
        cluster=plan.chunks if plan.one_pass else 1,
        blocks=blocks,
        registers=registers,
        shared_bytes=plan.shared_bytes,
        blocks_per_multiprocessor=fitting,
        occupancy=round(fitting * plan.threads / 32 / WARPS, 3),
        waves=round(blocks / (fitting * DEVICES[capability(target)].multiprocessors), 2),
        predicted_us=round(us, 1),
        nvcc=used[0].nvcc,
        commit=used[0].commit,
    )


def _sections(disassembly: str) -> dict[str, str]:
    """The code of each function."""
    sections = re.split(r"^\s*\.section\s+\.text\.([^\s,]+),.*$", disassembly, flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2], strict=True))


def _instructions(disassembly: str) -> dict[str, int]:
    """How many there are, by function."""
    instruction = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/", re.MULTILINE)
    return {name: len(instruction.findall(code)) for name, code in _sections(disassembly).items()}


def _spills(disassembly: str) -> dict[str, int]:
    """The number of loads from and stores to local memory, by function."""
    return {name: len(re.findall(r"\b(?:LDL|STL)\b", code)) for name, code in _sections(disassembly).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the folder for cuda.csv and cuda_plans.csv")
    parser.add_argument("--targets", default=";".join(TARGETS), help="such as 80;90a")
    parser.add_argument("--paths", action="store_true", help="instead: count a typical call's instructions")
    arguments = parser.parse_args()
    if arguments.paths:
        for kernel, count in paths().items():
            print(f"{kernel}: {count} instructions")
        return
    if arguments.out is None:
        parser.error("--out is needed")
    rows = list(report(tuple(arguments.targets.split(";"))))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, table in (("cuda", rows), ("cuda_plans", list(plans(rows)))):
        write(arguments.out / f"{name}.csv", [{k: str(v) for k, v in row._asdict().items()} for row in table])
    print(f"{arguments.out}: {len(rows)} kernels, {sum(row.spill_instructions > 0 for row in rows)} spill")


if __name__ == "__main__":
    main()
