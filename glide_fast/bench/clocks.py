"""A GPU's clocks while it is measured, and why they are throttled, as nvidia-smi reports them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from typing import NamedTuple

import torch

_QUERY = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
_MASK = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The name of the same field in newer and in older drivers, which refuse a query with the other name."""
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}
"""Bits of NVML's mask for throttling; the bits for an idle GPU and for clocks set by the user are left out."""


class Clocks(NamedTuple):
    """``state`` such as "1980 MHz, memory 2619 MHz, 41 C, 310 W"; ``throttled``: the reasons, or "". Both are "" on a CPU."""

    state: str = ""
    throttled: str = ""


@functools.cache
def _tool() -> str | None:
    return shutil.which("nvidia-smi")


def _device() -> str:
    """The UUID of the device that torch uses, for nvidia-smi, which may number the devices differently than torch."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def clocks(device: str) -> Clocks:
    """The clocks now; empty where there is no GPU, or no nvidia-smi that answers."""
    tool = _tool()
    if device != "cuda" or tool is None:
        return Clocks()
    for mask in _MASK:
        command = [tool, f"--id={_device()}", f"--query-gpu={_QUERY},{mask}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            break
        if answer.returncode == 0:
            return parse(answer.stdout)
    return Clocks()


def parse(line: str) -> Clocks:
    """The clocks in a line of nvidia-smi's output; values that nvidia-smi does not know are left out."""
    fields = [field.strip() for field in line.strip().split(",")]
    if len(fields) != _QUERY.count(",") + 2:
        return Clocks()
    forms = ("{} MHz", "memory {} MHz", "{} C", "{} W")
    state = [form.format(value) for form, value in zip(forms, fields, strict=False) if "[" not in value]
    mask = int(fields[-1], 16) if fields[-1].startswith("0x") else 0
    return Clocks(", ".join(state), ", ".join(name for bit, name in _REASONS.items() if mask & bit))
