"""What glide_fast runs on: versions, devices, CPU features, and what of the native library was built.

Nothing here runs at import. :func:`environment` asks torch for its devices and so initialises CUDA where there is one.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from glide_fast.cpu import features, info

PACKAGES = ("numpy", "safetensors", "tokenizers", "ftfy", "tqdm", "typer", "pillow", "requests")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    import torch

    return {
        "model": info().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "features": features(),
    }


def _cuda() -> dict[str, Any]:
    import torch

    if torch.version.cuda is None:
        return {"available": False, "why_not": "this torch was built without CUDA", "devices": []}
    if not torch.cuda.is_available():
        return {"available": False, "why_not": "torch finds no CUDA device or driver", "devices": []}
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": properties.name,
                "capability": f"sm_{properties.major}{properties.minor}",
                "memory_gib": round(properties.total_memory / 2**30, 1),
            }
        )
    return {"available": True, "runtime": torch.version.cuda, "devices": devices}


def _native() -> dict[str, Any]:
    from glide_fast.ops import native

    library = native.load()
    return {
        "loaded": library is not None,
        "why_not": native.why_missing(),
        "cpu_targets_here": [] if library is None else list(library.isas()),
        "build": native.build_record(),
    }


def _step_memory() -> dict[str, Any]:
    from glide_fast.ops import arena

    return {"available": arena.why_missing() is None, "why_not": arena.why_missing()}


def _nvcc() -> str | None:
    """Path and release of nvcc, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    path = shutil.which("nvcc") or shutil.which(f"{home}/bin/nvcc")
    if path is None:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} (does not run: {error})"
    release = next((line for line in said.stdout.splitlines() if "release" in line), said.stdout)
    return f"{path} ({release.rpartition(',')[0].strip()})"


def _caches() -> dict[str, str]:
    from glide_fast.checkpoints import default_cache_dir

    return {
        "weights": default_cache_dir(),
        "triton": os.environ.get("TRITON_CACHE_DIR") or str(Path.home() / ".triton" / "cache"),
    }


def _plans() -> dict[str, Any]:
    """Which files of measured plans are used for each device, and why others are not."""
    import torch

    from glide_fast.errors import GlideFastError
    from glide_fast.plans import table
    from glide_fast.plans.device import Device

    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    found = {}
    for device in devices:
        try:
            found[str(device)] = list(table.table_of(Device.of(device)).in_words())
        except GlideFastError as error:
            found[str(device)] = [str(error)]
    return {"setting": os.environ.get(table.ENVIRONMENT), "devices": found}


def environment() -> dict[str, Any]:
    """Everything that decides which code runs here and how fast, as values that JSON can hold."""
    import torch

    return {
        "glide_fast": _version("glide-fast"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "xformers": _version("xformers"),
        "cpu": _cpu(),
        "cuda": _cuda(),
        "native": _native(),
        "step_memory": _step_memory(),
        "nvcc": _nvcc(),
        "packages": {name: _version(name) for name in PACKAGES},
        "caches": _caches(),
        "plans": _plans(),
        "backend_setting": os.environ.get("GLIDE_FAST_BACKEND"),
    }


def report() -> str:
    """:func:`environment` as lines for people."""
    env = environment()
    processor, cuda, native = env["cpu"], env["cuda"], env["native"]
    build = native["build"] or {}
    lines = {
        "glide_fast": env["glide_fast"] or "not installed (runs from its source tree)",
        "python": f"{env['python']} ({env['executable']})",
        "platform": env["platform"],
        "torch": env["torch"],
        "triton": env["triton"] or "not installed: no Triton kernels",
        "xformers": env["xformers"] or "not installed (optional)",
        "CPU": f"{processor['model']}, {processor['cores']} cores, torch uses {processor['threads']} threads",
        "CPU features": ", ".join(processor["features"]) or "none of those the kernels use",
    }
    if cuda["available"]:
        for index, device in enumerate(cuda["devices"]):
            lines[f"CUDA device {index}"] = (
                f"{device['name']}, {device['capability']}, {device['memory_gib']} GiB (CUDA {cuda['runtime']})"
            )
    else:
        lines["CUDA device"] = f"none: {cuda['why_not']}"
    if native["loaded"]:
        lines["native library"] = f"built by {build.get('cxx', 'an unknown compiler')}"
        lines["  CPU kernels"] = (
            f"use {native['cpu_targets_here'][0]}; built for {', '.join(build.get('cpu_targets', []))}"
        )
        lines["  CUDA kernels"] = (
            f"built for {', '.join(build['cuda_targets'])} by {build['nvcc']}"
            if build.get("cuda")
            else f"not built: {build.get('cuda_why_not', 'no record of the build')}"
        )
    else:
        lines["native library"] = f"missing: {native['why_not']}"
    missing = env["step_memory"]["why_not"]
    lines["memory of steps"] = (
        "used again at the next one (CPU)" if missing is None else f"not kept: {missing}"
    )
    lines["nvcc"] = env["nvcc"] or "not found (needed only to build the CUDA kernels)"
    lines["packages"] = ", ".join(
        f"{name} {version or 'missing'}" for name, version in env["packages"].items()
    )
    lines["weights cache"] = env["caches"]["weights"]
    lines["Triton cache"] = env["caches"]["triton"]
    for device, words in env["plans"]["devices"].items():
        for number, word in enumerate(words):
            lines[f"measured plans, {device}{f' ({number + 1})' if number else ''}"] = word
    if env["plans"]["setting"]:
        lines["GLIDE_FAST_PLANS"] = env["plans"]["setting"]
    if env["backend_setting"]:
        lines["GLIDE_FAST_BACKEND"] = env["backend_setting"]
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
