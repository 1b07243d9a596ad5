"""Builds csrc with ninja (g++, and nvcc where there is one and there are CUDA sources); maps kernels/ to glide_fast.kernels.

There are two libraries. ``_C`` has the kernels and nothing of torch. ``_arena`` hooks into torch's memory on the CPU: it is
compiled against the torch that is installed when glide_fast is, and for that version only. Both are optional: where one cannot
be built, the install goes on without it, says why, and records that in ``glide_fast/_build.json``, which ``glide-fast env``
prints. Environment variables:

    CXX                       the C++ compiler; g++, c++ or clang++ otherwise
    NVCC, CUDA_HOME           where nvcc is
    GLIDE_FAST_CUDA_TARGETS   architectures, such as "80;90a"
    GLIDE_FAST_NATIVE         0: build nothing; 1: fail where the kernels cannot be built
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
RECORD = "_build.json"

# No -march=native: what is built here may run elsewhere. -ffp-contract=off: only the multiply-adds that are written.
CXX_FLAGS = (
    "-std=c++17 -O3 -fPIC -fopenmp -fvisibility=hidden -ffp-contract=off -Wall -Wextra"
    # GCC 12 warns of its own intrinsics' headers.
    " -Wno-uninitialized -Wno-maybe-uninitialized"
)
_AVX2 = "-mavx2 -mfma"
_AVX512 = f"{_AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"
_AVX512_BF16 = f"{_AVX512} -mavx512bf16"
# One object of every *.kernel.cpp for each; csrc/cpu/isa.h lists the same names.
X86_FLAGS = {"portable": "", "avx2": _AVX2, "avx512": _AVX512, "avx512_bf16": _AVX512_BF16}
# Of every *.amx.cpp, where the compiler knows AMX (GCC and Clang from 11 on).
AMX, AMX_FLAGS = "amx", f"{_AVX512_BF16} -mamx-tile -mamx-bf16"
CUDA_TARGETS = ("80", "90a", "100")
# By source. nvcc fuses products and sums unless it is asked not to; guided_step/cuda.cu says why it may not there.
CUDA_FLAGS = {"guided_step/cuda.cu": "-fmad=false"}
# Not among the kernels: what makes a Python module of them, and the sources of the other library.
BINDINGS, ARENA = CSRC / "bindings.cpp", CSRC / "arena"


class CannotBuild(Exception):
    """A library, or the CUDA half of one, cannot be built here; the message says why."""


def digest() -> str:
    """A hash of all that the libraries are made of."""
    total = hashlib.sha256()
    for path in sorted([ROOT / "setup.py", *(path for path in CSRC.rglob("*") if path.is_file())]):
        total.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def kernel_sources() -> dict[str, str]:
    """A digest of what each op's half of the library ("resample/cpu", "resample/cuda") is made of.

    A measured plan holds for the kernel that it was measured with (glide_fast/plans/sources.py).
    """
    found = {}
    for folder in sorted({path.parent for path in CSRC.rglob("bind.h")}):
        for half, suffixes in (("cpu", {".cpp"}), ("cuda", {".cu"})):
            own = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
            if own:
                found[f"{folder.name}/{half}"] = _digest_of(_with_includes(own), half)
    return found


def _with_includes(sources: list[Path]) -> list[Path]:
    """Sources, the headers of csrc that they include, and the sources that belong to those headers."""
    found: set[Path] = set()
    left = [*sources]
    while left:
        path = left.pop()
        if path in found or path == BINDINGS:
            continue
        found.add(path)
        for name in re.findall(
            r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            header = CSRC / name
            if header.exists():
                stem = header.name.split(".")[0]
                left += [
                    header,
                    *(one for one in header.parent.glob(f"{stem}.*") if one.suffix in (".cpp", ".cu")),
                ]
    return sorted(found)


def _digest_of(files: list[Path], half: str) -> str:
    """Lines that hold nothing but a comment, empty ones, and the ends of lines do not count."""
    total = hashlib.sha256((CXX_FLAGS + str(X86_FLAGS) if half == "cpu" else str(CUDA_FLAGS)).encode())
    for path in files:
        lines = (line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
        text = "\n".join(line for line in lines if line and not line.lstrip().startswith("//"))
        total.update(path.relative_to(CSRC).as_posix().encode() + b"\0" + text.encode() + b"\0")
    return total.hexdigest()[:16]


def compiler() -> list[str]:
    named = os.environ.get("CXX")
    for candidate in [named] if named else ["g++", "c++", "clang++"]:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise CannotBuild(f"no C++ compiler: {named or 'g++'} not found (on Debian or Ubuntu: apt install g++)")


def knows_amx(cxx: list[str]) -> bool:
    """Whether the compiler takes AMX_FLAGS, and its assembler the instructions."""
    command = [*cxx, *shlex.split(AMX_FLAGS), "-x", "c++", "-c", "-", "-o", os.devnull]
    tile = 'void multiply() { asm volatile("tdpbf16ps %tmm2, %tmm1, %tmm0"); }'
    try:
        return subprocess.run(command, input=tile, text=True, capture_output=True).returncode == 0
    except OSError:
        return False


def find_ninja() -> str:
    beside = Path(sys.executable).with_name("ninja")  # of a virtual environment that was not activated
    found = shutil.which("ninja") or (str(beside) if beside.exists() else None)
    if found is None:
        raise CannotBuild("no ninja found (pip install ninja)")
    return found


def find_nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    for candidate in (os.environ.get("NVCC"), "nvcc", f"{home}/bin/nvcc"):
        if candidate and (path := shutil.which(candidate)):
            return path
    raise CannotBuild("no nvcc found (CUDA toolkit; set CUDA_HOME or NVCC)")


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotBuild(f"{command[0]} does not run: {error}") from error


def cuda_targets(nvcc: str) -> list[str]:
    """The architectures to compile for, less those that this nvcc does not know."""
    if wanted := os.environ.get("GLIDE_FAST_CUDA_TARGETS"):
        return wanted.replace(",", ";").strip(";").split(";")
    known = output_of(nvcc, "--list-gpu-arch").split()
    return [target for target in CUDA_TARGETS if f"compute_{target.rstrip('a')}" in known]


def quoted(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def argument(path: str | Path) -> str:
    """A path within a command of a build.ninja."""
    return shlex.quote(str(path)).replace("$", "$$")


class NinjaFile:
    """The text of a build.ninja that compiles csrc and links one shared library."""

    def __init__(self, build_dir: Path, library: Path, cxx: list[str]) -> None:
        try:
            import pybind11
        except ImportError as error:
            raise CannotBuild("pybind11 is not installed (pip install pybind11)") from error
        system = (pybind11.get_include(), sysconfig.get_paths()["include"])
        includes = " ".join([f"-I{argument(CSRC)}", *(f"-isystem {argument(path)}" for path in system)])
        self.build_dir, self.library, self.cxx = build_dir, library, cxx
        self.objects: list[str] = []
        self.defines = self.libraries = ""
        self.link = "$cxx -shared -fopenmp"
        self.rules = [
            "ninja_required_version = 1.5",
            f"cxx = {shlex.join(cxx)}",
            f"cxxflags = {CXX_FLAGS} {includes}",
            "rule cxx\n  command = $cxx -MMD -MF $out.d $cxxflags $flags -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        ]
        self.builds: list[str] = []

    def add(self, rule: str, source: Path, flags: str, variant: str = "") -> None:
        """Compile a source of csrc; ``variant`` tells the objects of one source apart."""
        name = f"{source.relative_to(CSRC).as_posix()}{variant and '.'}{variant}.o"
        self.objects.append(name)
        self.builds.append(f"build {name}: {rule} {quoted(source)}\n  flags = {flags}")

    def add_cpu(self) -> list[str]:
        x86 = platform.machine() in ("x86_64", "AMD64")
        isas = X86_FLAGS if x86 else {"portable": ""}
        amx = x86 and knows_amx(self.cxx)
        if amx:
            self.defines += " -DGLIDE_FAST_AMX"
        for source in cpu_sources():
            if source.name.endswith(".kernel.cpp"):
                for isa, flags in isas.items():
                    self.add("cxx", source, f"-DGLIDE_FAST_ISA={isa} {flags}", isa)
            elif not source.name.endswith(".amx.cpp"):
                self.add("cxx", source, self.defines)
            elif amx:
                self.add("cxx", source, f"-DGLIDE_FAST_ISA={AMX} {AMX_FLAGS}", AMX)
        return [*isas, AMX] if amx else list(isas)

    def add_cuda(self, nvcc: str, cxx: list[str], targets: list[str]) -> None:
        codes = " ".join(f"-gencode=arch=compute_{t},code=sm_{t}" for t in targets)
        self.rules += [
            f"nvcc = {shlex.quote(nvcc)} -ccbin {shlex.quote(cxx[-1])}",
            f"nvccflags = -std=c++17 -O3 -I{argument(CSRC)} -Xcompiler=-fPIC,-fvisibility=hidden {codes}",
            "rule nvcc\n  command = $nvcc -MD -MF $out.d $nvccflags $flags -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        ]
        for source in cuda_sources():
            self.add("nvcc", source, CUDA_FLAGS.get(source.relative_to(CSRC).as_posix(), ""))
        # nvcc links, since it knows where its toolkit keeps the static runtime.
        self.link = "$nvcc -shared -cudart=static -Xcompiler=-fopenmp"
        self.defines += " -DGLIDE_FAST_CUDA"

    def add_bindings(self) -> None:
        self.add("cxx", BINDINGS, f"-O1 {self.defines}")  # glue: nothing to optimise

    def add_arena(self, torch: Path, version: str) -> None:
        # The version makes the command another one, so that another torch has everything compiled again.
        flags = f"-isystem {shlex.quote(str(torch / 'include'))} -DGLIDE_FAST_TORCH='\"{version}\"'"
        for source in sorted(ARENA.glob("*.cpp")):
            self.add("cxx", source, flags)
        # Found by its name when it is loaded, since torch has loaded it before.
        self.link += f" -L{shlex.quote(str(torch / 'lib'))}"
        self.libraries = "-lc10"

    def write(self) -> None:
        rule = f"rule link\n  command = {self.link} $in -o $out {self.libraries}"
        link = f"build {quoted(self.library)}: link {' '.join(self.objects)}"
        text = "\n".join([*self.rules, rule, *self.builds, link, f"default {quoted(self.library)}", ""])
        self.build_dir.mkdir(parents=True, exist_ok=True)
        (self.build_dir / "build.ninja").write_text(text)


def cpu_sources() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*.cpp") if path != BINDINGS and path.parent != ARENA)


def cuda_sources() -> list[Path]:
    return sorted(CSRC.rglob("*.cu"))


def run_ninja(build_dir: Path) -> None:
    result = subprocess.run(
        [find_ninja(), "-C", str(build_dir)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        (build_dir / "build.log").write_text(result.stdout)
        raise CannotBuild(f"compilation failed:\n{result.stdout[result.stdout.find('FAILED:') :][-2000:]}")


def build_native(build_dir: Path, library: Path) -> dict[str, object]:
    """Compile csrc into ``library`` and return the build record; raise CannotBuild where that is not possible."""
    cxx = compiler()
    find_ninja()
    record: dict[str, object] = {"cxx": f"{shlex.join(cxx)}: {output_of(*cxx, '--version').splitlines()[0]}"}
    library.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not cuda_sources():
            raise CannotBuild("this version has no CUDA sources")
        nvcc = find_nvcc()
        ninja = NinjaFile(build_dir / "cuda", library, cxx)
        targets = cuda_targets(nvcc)
        record["cpu_targets"] = ninja.add_cpu()
        ninja.add_cuda(nvcc, cxx, targets)
        ninja.add_bindings()
        ninja.write()
        run_ninja(build_dir / "cuda")
        return record | {
            "cuda": True,
            "cuda_targets": [f"sm_{target}" for target in targets],
            "nvcc": f"{nvcc}: {output_of(nvcc, '--version').splitlines()[-1]}",
        }
    except CannotBuild as reason:
        record |= {"cuda": False, "cuda_why_not": str(reason)}
    ninja = NinjaFile(build_dir / "cpu", library, cxx)
    record["cpu_targets"] = ninja.add_cpu()
    ninja.add_bindings()
    ninja.write()
    run_ninja(build_dir / "cpu")
    return record


def find_torch() -> tuple[Path, str]:
    """Folder and version of the torch that glide_fast will run with."""
    # pip builds in an environment of its own, without torch; the paths of the one it installs into are known all the same.
    paths = sysconfig.get_paths()
    for folder in dict.fromkeys([*sys.path, paths["purelib"], paths["platlib"]]):
        version = Path(folder) / "torch" / "version.py"
        if version.is_file() and (Path(folder) / "torch" / "include" / "c10").is_dir():
            told = re.search(r"^__version__ = '([^']+)'", version.read_text(), re.MULTILINE)
            if told:
                return version.parent, told[1]
    raise CannotBuild("no torch was installed here before glide_fast (install torch, then glide_fast again)")


def build_arena(build_dir: Path, library: Path) -> dict[str, object]:
    """Compile csrc/arena into ``library`` and return its part of the record; raise CannotBuild where that is not possible."""
    if platform.system() != "Linux":
        raise CannotBuild(f"it is written for Linux, and this is {platform.system()}")
    cxx = compiler()
    find_ninja()
    torch, version = find_torch()
    ninja = NinjaFile(build_dir / "arena", library, cxx)
    ninja.add_arena(torch, version)
    ninja.write()
    run_ninja(build_dir / "arena")
    return {"torch": version}


class BuildNative(build_ext):
    """setuptools' build_ext with ninja in place of its compilers, and a failure that is recorded instead of raised."""

    def run(self) -> None:
        # build_ext would set up a compiler first, and copy built extensions into the source for an editable install.
        package = (
            ROOT / "glide_fast"
            if self.inplace or self.editable_mode
            else Path(self.build_lib).resolve() / "glide_fast"
        )
        package.mkdir(parents=True, exist_ok=True)
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        library, arena = package / f"_C{suffix}", package / f"_arena{suffix}"
        build_dir = Path(self.build_temp).resolve() / "glide_fast"
        choice = os.environ.get("GLIDE_FAST_NATIVE", "auto")
        record: dict[str, object] = {
            "python": platform.python_version(),
            "platform": sysconfig.get_platform(),
            "sources": digest(),
        }
        try:
            if choice == "0":
                raise CannotBuild("switched off by GLIDE_FAST_NATIVE=0")
            record |= build_native(build_dir, library)
            record |= {"native": True, "kernel_sources": kernel_sources()}
        except CannotBuild as reason:
            if choice == "1":
                raise SystemExit(f"glide_fast: the native library cannot be built: {reason}") from reason
            library.unlink(missing_ok=True)  # of an earlier build in place: older than the sources
            record |= {"native": False, "why_not": str(reason)}
            print(f"glide_fast: installing without the native library: {reason}", file=sys.stderr)
        try:
            if choice == "0":
                raise CannotBuild("switched off by GLIDE_FAST_NATIVE=0")
            record |= build_arena(build_dir, arena)
        except CannotBuild as reason:
            arena.unlink(missing_ok=True)
            record |= {"torch": None, "torch_why_not": str(reason)}
        (package / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "glide_fast"
        return [str(path) for path in (package / RECORD, *package.glob("_C*"), *package.glob("_arena*"))]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    packages=[
        *find_packages(include=["glide_fast", "glide_fast.*"]),
        "glide_fast.kernels",
        *(f"glide_fast.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"glide_fast.kernels": "kernels"},
    package_data={
        "glide_fast": ["py.typed", "plans/*.json", "text/data/*", "compat/clip/config.yaml", "weights/**/*"]
    },
    include_package_data=False,
    # Without sources: BuildNative knows them. It is here so that wheels carry this platform's tag.
    ext_modules=[Extension("glide_fast._C", sources=[])],
    cmdclass={"build_ext": BuildNative},
)
