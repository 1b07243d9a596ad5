"""Builds csrc for the present device, and checks that the built library loads and has the kernels."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time

import torch

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNABLE, Outcome, Part, Setting

ASK = """
import json, sys
sys.path[:0] = sys.argv[1:]
from glide_fast.ops import native
print(json.dumps({"loads": native.load() is not None, "why_not": native.why_missing(), **(native.build_record() or {})}))
"""


def target(capability: tuple[int, int]) -> str | None:
    """The architecture of csrc/cuda for a device of this compute capability."""
    major, minor = capability
    return {8: f"{major}{minor}", 9: "90a", 10: f"{major}{minor}"}.get(major)


def sources() -> str:
    """The hash of setup.py and csrc that setup.py writes into the record of a build."""
    total = hashlib.sha256()
    files = (path for path in (command.ROOT / "csrc").rglob("*") if path.is_file())
    for path in sorted([command.ROOT / "setup.py", *files]):
        total.update(path.relative_to(command.ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def ask() -> tuple[dict[str, object] | None, str]:
    """The build record of the installed library, read in a new process; or None and the output of that process."""
    asked = command.run([sys.executable, "-c", ASK, str(command.ROOT)], 120)
    try:
        return json.loads(asked.output.splitlines()[-1]), ""
    except (IndexError, ValueError):
        return None, asked.tail


def run(setting: Setting) -> Outcome:
    """Build the library, unless the installed one was built from the same sources.

    On a CPU the library is built into a folder that is thrown away, and the installed one is asked.
    """
    start = time.monotonic()
    wanted = None
    if setting.device == "cuda":
        wanted = target(torch.cuda.get_device_capability())
        if wanted is None:
            capability = torch.cuda.get_device_capability()
            return Outcome(UNABLE, notes=(f"csrc/cuda is not written for sm_{capability}",))
    record, said = ask()
    there = (
        record is not None and record.get("sources") == sources() and judged(record, wanted).state == GREEN
    )
    if not there:
        ran = build(wanted, setting.seconds_left)
        if ran.status != 0:
            return Outcome(RED, notes=(f"the build failed: {ran.tail}",))
        record, said = ask()
    if record is None:
        return Outcome(RED, notes=(f"the library could not be asked: {said}",))
    file = setting.folder / "build.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {"was_there": there, "seconds": round(time.monotonic() - start, 1)}
    file.write_text(json.dumps(setting.facts | found | record, indent=2) + "\n", encoding="utf-8")
    return judged(record, wanted)._replace(files=(file,))


def build(wanted: str | None, seconds: float) -> command.Ran:
    """Build and install for an architecture; without one build into a temporary folder."""
    environment = {"GLIDE_FAST_NATIVE": "1"}
    if wanted is not None:
        environment["GLIDE_FAST_CUDA_TARGETS"] = wanted
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]
        return command.run(install, seconds, environment)
    with tempfile.TemporaryDirectory() as scratch:
        folders = ["--build-lib", f"{scratch}/lib", "--build-temp", f"{scratch}/temp"]
        # Without nvcc on the path the CUDA half, which takes minutes, is left out.
        environment |= {"PATH": without_nvcc(os.environ["PATH"]), "CUDA_HOME": scratch, "CUDA_PATH": scratch}
        return command.run([sys.executable, "setup.py", "-q", "build_ext", *folders], seconds, environment)


def judged(record: dict[str, object], wanted: str | None) -> Outcome:
    """The outcome for a build record: red unless the library loads and has kernels for the architecture ``wanted``."""
    if not record["loads"]:
        return Outcome(RED, notes=(f"the library does not load: {record['why_not']}",))
    if wanted is None:
        return Outcome(GREEN)
    if not record.get("cuda"):
        return Outcome(RED, notes=(f"built without CUDA: {record.get('cuda_why_not')}",))
    targets = record.get("cuda_targets")
    if not isinstance(targets, list) or f"sm_{wanted}" not in targets:
        return Outcome(RED, notes=(f"built for {targets}, not for sm_{wanted}",))
    return Outcome(GREEN)


def without_nvcc(path: str) -> str:
    """A search path less the folders that have an nvcc."""
    folders = path.split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not os.path.exists(os.path.join(folder, "nvcc")))


def parts(setting: Setting) -> tuple[Part, ...]:
    return (Part("build", "csrc for this device", run, 90, in_process=True),)
