"""The report of `glide-fast env`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glide_fast import cpu, env
from glide_fast.ops import native


def test_the_environment_fits_json_and_the_report_shows_it() -> None:
    found = env.environment()
    assert json.loads(json.dumps(found)) == found
    said = env.report()
    for value in (found["torch"], found["python"], found["cpu"]["model"], found["caches"]["weights"]):
        assert value in said


def test_a_missing_library_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: None)
    monkeypatch.setattr(native, "why_missing", lambda: "no C++ compiler")
    assert "missing: no C++ compiler" in env.report()


def test_the_cuda_half_that_was_not_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: SimpleNamespace(isas=lambda: ["avx2", "portable"]))
    build = {
        "cxx": "g++: 12",
        "cpu_targets": ["portable", "avx2"],
        "cuda": False,
        "cuda_why_not": "no nvcc found",
    }
    monkeypatch.setattr(native, "build_record", lambda: build)
    said = env.report()
    assert "use avx2; built for portable, avx2" in said
    assert "not built: no nvcc found" in said
    build |= {"cuda": True, "cuda_targets": ["sm_80", "sm_90a"], "nvcc": "nvcc 13.0"}
    assert "built for sm_80, sm_90a by nvcc 13.0" in env.report()


def test_cuda_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="Card", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert env.environment()["cuda"]["devices"][1] == {
        "name": "Card",
        "capability": "sm_90",
        "memory_gib": 80.0,
    }
    assert "Card, sm_90, 80.0 GiB (CUDA 13.0)" in env.report()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "#!/bin/sh\necho 'nvcc: driver'\necho 'Cuda tools, release 12.8, V12.8.61'\n",
            "(Cuda tools, release 12.8)",
        ),
        ("#!/bin/sh\nexit 3\n", "does not run"),
    ],
)
def test_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert env._nvcc() is None
    nvcc.write_text(script)
    nvcc.chmod(0o755)
    assert said in str(env._nvcc()) and str(nvcc) in str(env._nvcc())


def test_a_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "info", dict)
    monkeypatch.setattr(cpu, "info", dict)
    found = env.environment()["cpu"]
    assert found["features"] == [] and found["model"]
    assert "none of those the kernels use" in env.report()


def test_importing_touches_no_device() -> None:
    code = "import glide_fast, glide_fast.env, glide_fast.ops, glide_fast.kernels, torch; print(torch.cuda.is_initialized())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
