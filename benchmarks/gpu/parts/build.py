"""Builds csrc for the device found, and asks the built library what it holds."""

from __future__ import annotations

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


def run(setting: Setting) -> Outcome:
    """On a CPU the library is built into a folder that is thrown away, and the installed one is asked."""
    start = time.monotonic()
    environment = {"GLIDE_FAST_NATIVE": "1"}
    wanted = None
    if setting.device == "cuda":
        wanted = target(torch.cuda.get_device_capability())
        if wanted is None:
            return Outcome(
                UNABLE, notes=(f"csrc/cuda is not written for sm_{torch.cuda.get_device_capability()}",)
            )
        environment["GLIDE_FAST_CUDA_TARGETS"] = wanted
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]
        ran = command.run(install, setting.seconds_left, environment)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folders = ["--build-lib", f"{scratch}/lib", "--build-temp", f"{scratch}/temp"]
            # No nvcc on the path: its half takes minutes.
            environment |= {
                "PATH": without_nvcc(os.environ["PATH"]),
                "CUDA_HOME": scratch,
                "CUDA_PATH": scratch,
            }
            ran = command.run(
                [sys.executable, "setup.py", "-q", "build_ext", *folders], setting.seconds_left, environment
            )
    if ran.status != 0:
        return Outcome(RED, notes=(f"the build failed: {ran.tail}",))
    asked = command.run([sys.executable, "-c", ASK, str(command.ROOT)], 120)
    try:
        record = json.loads(asked.output.splitlines()[-1])
    except (IndexError, ValueError):
        return Outcome(RED, notes=(f"the library could not be asked: {asked.tail}",))
    file = setting.folder / "build.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    seconds = round(time.monotonic() - start, 1)
    file.write_text(
        json.dumps({**setting.facts, "seconds": seconds, **record}, indent=2) + "\n", encoding="utf-8"
    )
    return judged(record, wanted)._replace(files=(file,))


def judged(record: dict[str, object], wanted: str | None) -> Outcome:
    """Whether a build record is of a library that loads, with kernels for the architecture ``wanted``."""
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


PARTS = (Part("build", "csrc for this device", run),)
