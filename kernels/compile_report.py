"""Compiles the configurations of the Triton kernels that GLIDE's models launch, without a GPU, and reads the machine code.

    python -m glide_fast.kernels.compile_report --out benchmarks/results/static/triton.csv
    python -m glide_fast.kernels.compile_report --check --target 90    # only whether all compile, with no report

A file of this package takes part by two functions: ``default_builds()`` returns the configurations that a guided sampling run of
one prompt in fp16 launches most (a test fails when one of those spills), ``shipped_builds()`` all other shapes of GLIDE. Kernels
that can be cut up in several ways have ``candidate_builds()`` too: every plan that ``glide-fast tune`` would time.

Registers, the stack and shared memory come from the compiled binary; spills are its instructions on thread-local memory;
occupancy is calculated from these and the limits of a multiprocessor. Nothing is run and nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from glide_fast.bench.record import Table

from .build import Build, launch_options
from .occupancy import DEVICES, WARPS, blocks_per_multiprocessor

TARGETS = tuple(DEVICES)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


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
    tensor_cores: str  # the tensor-core instructions in the code
    programs_per_multiprocessor: int
    occupancy: float  # resident warps, as a fraction of those that a multiprocessor can hold
    triton: str
    commit: str


def kernel_modules() -> list[ModuleType]:
    """The files of this package that list what they compile."""
    here = Path(__file__)
    names = sorted(
        found.name for found in pkgutil.iter_modules([str(here.parent)]) if found.name != here.stem
    )
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "shipped_builds")]


@functools.cache
def default_builds() -> list[Build]:
    """Every file's default configurations."""
    return [build for module in kernel_modules() for build in module.default_builds()]


@functools.cache
def candidate_builds() -> list[Build]:
    """Every file's candidates: each plan that ``glide-fast tune`` would time for GLIDE's calls in fp16."""
    offering = (module for module in kernel_modules() if hasattr(module, "candidate_builds"))
    return [build for module in offering for build in module.candidate_builds()]


@functools.cache
def shipped_builds() -> list[Build]:
    """Every file's configurations, the default ones first."""
    return default_builds() + [build for module in kernel_modules() for build in module.shipped_builds()]


def distinct(builds: list[Build]) -> list[Build]:
    """``builds`` without those that would compile to the same code as an earlier one."""
    seen: dict[Any, Build] = {}
    for build in builds:
        key = (build.kernel, tuple(build.arguments.items()), tuple(build.constants.items()))
        seen.setdefault((*key, build.warps, build.stages, build.aligned), build)
    return list(seen.values())


def compiled(build: Build, target: int) -> Any:
    """The kernel, compiled for compute capability ``target`` (80 is 8.0) as a model's step launches it there."""
    names = build.kernel.arg_names
    signature = {name: build.arguments.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in build.aligned}
    constants, dependent = dict(build.constants), False
    if "DEPENDENT" in constants:
        dependent = constants["DEPENDENT"] = target >= 90
    source = ASTSource(build.kernel, signature, constants, attributes)
    options = {"num_warps": build.warps, "num_stages": build.stages, "enable_fp_fusion": build.fusion}
    options |= launch_options(dependent)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def local_accesses(cubin: Path) -> int:
    """How many instructions of a compiled kernel read or write thread-local memory."""
    return len(re.findall(r"\b(?:LDL|STL)\b", _output(TOOLS / "nvdisasm", "-c", cubin)))


def examine(build: Build, target: int, commit: str = "") -> Row:
    """Compile one configuration and read its registers, memory and instructions from the machine code."""
    binary = compiled(build, target)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _output(TOOLS / "cuobjdump", "-res-usage", file.name)
        figures = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
        # Spilled values lie on the stack, in thread-local memory. Without either nothing is spilled, and the code need not be
        # disassembled, which takes a hundred times as long as reading the sizes.
        local = int(figures["STACK"]) or int(figures["LOCAL"])
        spills = local_accesses(Path(file.name)) if local else 0
    registers, shared = int(figures["REG"]), int(binary.metadata.shared)
    programs = blocks_per_multiprocessor(target, build.warps, registers, shared)
    return Row(
        kernel=build.kernel.__name__,
        configuration=build.label,
        constants=" ".join(f"{name}={value}" for name, value in build.constants.items()),
        target=f"sm_{target}",
        warps=build.warps,
        stages=build.stages,
        registers=registers,
        stack_bytes=int(figures["STACK"]),
        spill_instructions=spills,
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


SETS = {"default": default_builds, "all": shipped_builds, "candidates": candidate_builds}
"""What can be compiled, by name."""


def chosen(which: str = "default", kernel: str | None = None) -> list[Build]:
    """The distinct configurations of a set (:data:`SETS`), of all kernels or one."""
    builds = SETS[which]()
    return distinct([build for build in builds if kernel in (None, build.kernel.__name__)])


def why_not(build: Build, target: int) -> str:
    """Why a configuration does not compile, with its name; empty where it does."""
    try:
        compiled(build, target)
    except Exception as error:
        said, cause = f"{build.kernel.__name__} {build.label} for sm_{target}: {error}", error.__cause__
        while cause is not None:
            said, cause = f"{said}\n{cause}", cause.__cause__
        return said
    return ""


def _why_not(index: int, which: str, kernel: str | None, target: int) -> str:
    """:func:`why_not` for the configuration at ``index`` of :func:`chosen`: kernels cannot be sent from process to process."""
    return why_not(_chosen(which, kernel)[index], target)


_chosen = functools.cache(chosen)


def check(which: str, kernel: str | None, targets: tuple[int, ...], workers: int) -> int:
    """Compile the chosen configurations, in processes; prints why one does not compile, and returns how many do not."""
    count = len(chosen(which, kernel))
    work = [(index, which, kernel, target) for target in targets for index in range(count)]
    failed = 0
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for reason in pool.map(_why_not, *zip(*work, strict=True)):
            if reason:
                failed += 1
                print(reason, file=sys.stderr, flush=True)
    print(f"Triton {triton.__version__}: {len(work) - failed} of {len(work)} configurations compile")
    return failed


def write(file: Path, rows: Iterator[Row]) -> int:
    """Write the rows to a CSV, each as soon as it is there; returns how many configurations spill."""
    table, spilling = Table(file, Row._fields, {}, again=True), 0
    for row in rows:
        table.add({name: str(value) for name, value in row._asdict().items()})
        spilling += row.spill_instructions > 0
    return spilling


def _output(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def _commit() -> str:
    """The commit of the kernels' sources, with "+" if a kernel has uncommitted changes; empty outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        commit = _output("git", "-C", here, "rev-parse", "--short", "HEAD").strip()
        return commit + ("+" if _output("git", "-C", here, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> int:
    """Returns 1 where something does not compile, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--out", type=Path, help="the CSV to write")
    wanted.add_argument("--check", action="store_true", help="only compile, and say what does not")
    more = parser.add_mutually_exclusive_group()
    more.add_argument(
        "--all",
        dest="which",
        action="store_const",
        const="all",
        default="default",
        help="every shape of GLIDE, not just the default ones",
    )
    more.add_argument(
        "--candidates",
        dest="which",
        action="store_const",
        const="candidates",
        help="every plan that glide-fast tune would time",
    )
    parser.add_argument("--count", action="store_true", help="only say how many configurations there are")
    parser.add_argument("--kernel", help="one kernel's configurations, such as attend")
    parser.add_argument("--target", type=int, choices=TARGETS, help="one target, such as 90")
    parser.add_argument("--workers", type=int, default=1, help="compilations at a time")
    arguments = parser.parse_args()
    targets = TARGETS if arguments.target is None else (arguments.target,)
    if arguments.check:
        return int(check(arguments.which, arguments.kernel, targets, arguments.workers) > 0)
    builds = chosen(arguments.which, arguments.kernel)
    if arguments.count:
        counts = Counter(build.kernel.__name__ for build in builds)
        print("\n".join(f"{name}: {count}" for name, count in sorted(counts.items())))
        print(f"{len(builds)} configurations for each of {len(targets)} targets")
        return 0
    if arguments.out is None:
        parser.error("say where to write with --out, or --check, or --count")
    spilling = write(arguments.out, report(builds, targets, arguments.workers))
    print(f"{arguments.out}: {spilling} configurations spill")
    return 0


if __name__ == "__main__":
    sys.exit(main())
