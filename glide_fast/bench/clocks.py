"""A GPU's clocks while it is measured, and why they are held down, by NVIDIA's own tool."""

from __future__ import annotations

import functools
import shutil
import subprocess
from typing import NamedTuple

import torch

_QUERY = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
_MASK = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The same field in newer and in older drivers, which refuse a query with the other name."""
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}
"""Bits of NVML's mask that mean less speed; idle and clocks that somebody set are none of them."""


class Clocks(NamedTuple):
    """``state`` such as "1980 MHz, memory 2619 MHz, 41 C, 310 W", and ``throttled``: reasons, or "". Both "" on a CPU."""

    state: str = ""
    throttled: str = ""


@functools.cache
def _tool() -> str | None:
    return shutil.which("nvidia-smi")


def _device() -> str:
    """How nvidia-smi names the device that torch uses; its own numbers may be others than torch's."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def clocks(device: str) -> Clocks:
    """The clocks now; nothing where there is no GPU, or nobody tells."""
    tool = _tool()
    if device != "cuda" or tool is None:
        return Clocks()
    for mask in _MASK:
        command = [tool, f"--id={_device()}", f"--query-gpu={_QUERY},{mask}", "--format=csv,noheader,nounits"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            break
        if said.returncode == 0:
            return parse(said.stdout)
    return Clocks()


def parse(line: str) -> Clocks:
    """Clocks out of a line of nvidia-smi; what it does not know is left out."""
    fields = [field.strip() for field in line.strip().split(",")]
    if len(fields) != _QUERY.count(",") + 2:
        return Clocks()
    forms = ("{} MHz", "memory {} MHz", "{} C", "{} W")
    state = [form.format(value) for form, value in zip(forms, fields, strict=False) if "[" not in value]
    mask = int(fields[-1], 16) if fields[-1].startswith("0x") else 0
    return Clocks(", ".join(state), ", ".join(name for bit, name in _REASONS.items() if mask & bit))
