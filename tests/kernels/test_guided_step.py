"""guided_step's Triton kernel: its checks, interpreted in a process of their own, and its machine code for real targets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")
CHECKS = Path(__file__).resolve().parent / "check_guided_step.py"

POINTERS = {
    "x_ptr": "*fp32",
    "model_ptr": "*fp16",
    "table_ptr": "*fp32",
    "step_ptr": "*i64",
    "noise_ptr": "*fp32",
    "seeds_ptr": "*i64",
    "known_ptr": "*fp32",
    "mask_ptr": "*fp32",
    "score_ptr": "*fp32",
    "history_ptr": "*fp32",
    "next_x_ptr": "*fp32",
    "x0_ptr": "*fp32",
    "next_history_ptr": "*fp32",
    "inputs_ptr": "*fp16",
    "guidance_ptr": "*fp32",
}
# What each of the loops leaves out: pipelines' DDPM, inpainting with PLMS in a captured loop, CLIP-guided DDIM.
WITHOUT = {
    "ddpm": ("noise_ptr", "known_ptr", "mask_ptr", "score_ptr", "history_ptr", "next_history_ptr", "guidance_ptr"),
    "plms": ("noise_ptr", "seeds_ptr", "score_ptr"),
    "clip": ("seeds_ptr", "known_ptr", "mask_ptr", "history_ptr", "next_history_ptr", "inputs_ptr", "guidance_ptr"),
}  # fmt: skip


def run_checks(**environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CHECKS)]
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        command, cwd=CHECKS.parents[2], env=inherited | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_in_the_interpreter() -> None:
    run_checks(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.gpu
def test_on_a_device() -> None:
    run_checks()


def compiled(without: tuple[str, ...], dense: bool, capability: int) -> Any:
    import triton
    from glide_fast.kernels import guided_step as kernels
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants: dict[str, Any] = {
        "GUIDED": True, "CLIP": True, "REMEMBER_EPS": "history_ptr" not in without, "MODEL_DENSE": dense,
        "INPUT_DENSE": dense, "COPIES": 0 if "inputs_ptr" in without else 2, "BLOCK": kernels.BLOCK,
    }  # fmt: skip
    constants |= dict.fromkeys(without)
    signature = {}
    for name in kernels.guided_step_kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        else:
            signature[name] = POINTERS.get(name, "fp32" if name == "guidance_scale" else "i32")
    source = ASTSource(fn=kernels.guided_step_kernel, signature=signature, constexprs=constants)
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kernels.NUM_WARPS, "enable_fp_fusion": False},
    )


def resources(cubin: bytes, tmp_path: Path) -> dict[str, int]:
    """Registers, stack, local memory, ... of the one kernel in a cubin."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file = tmp_path / "kernel.cubin"
    file.write_bytes(cubin)
    usage = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    text = usage.stdout + usage.stderr
    return {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", text)}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("loop", "dense"), [("ddpm", True), ("plms", False), ("clip", True)])
def test_it_compiles_without_spills(loop: str, dense: bool, capability: int, tmp_path: Path) -> None:
    kernel = compiled(WITHOUT[loop], dense, capability)
    used = resources(kernel.asm["cubin"], tmp_path)
    assert used["STACK"] == 0 and used["LOCAL"] == 0, (
        "registers are spilled, or a function keeps a table on the stack"
    )
    assert used["REG"] <= 64, "less than half of a multiprocessor's threads would fit"
    # Products and sums are rounded one by one; only the logarithm of the device library has fused ones.
    assert "fma.rn" not in kernel.asm["ptx"] or loop == "ddpm"
