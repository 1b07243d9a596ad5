"""The device that a file of plans is of: a GPU by its name; a CPU by its model, its instruction sets and the threads of torch."""

from __future__ import annotations

import platform
import re
from typing import NamedTuple

import torch

from glide_fast.cpu import features, info


class Device(NamedTuple):
    """What must be equal for a measurement to hold.

    Attributes:
        type: "cuda" or "cpu", as in ``torch.device.type``.
        name: as the maker calls it.
        instruction_sets: of a CPU, those of :data:`glide_fast.cpu.FEATURES` that it has.
        threads: of torch on a CPU; 0 on a GPU.
    """

    type: str
    name: str
    instruction_sets: tuple[str, ...] = ()
    threads: int = 0

    @classmethod
    def of(cls, device: torch.device) -> Device:
        """The device behind ``device``; without an index the current one."""
        if device.type == "cpu":
            name = info().get("model name") or platform.processor() or platform.machine()
            return cls("cpu", name, tuple(features()), torch.get_num_threads())
        if device.type == "cuda":
            return cls("cuda", torch.cuda.get_device_name(device))
        return cls(device.type, device.type)

    @property
    def file(self) -> str:
        """The name of its file, such as ``nvidia-h100-80gb-hbm3.json``."""
        words = [self.name, *self.instruction_sets, *([f"{self.threads}-threads"] if self.threads else [])]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")[:120] + ".json"

    def __str__(self) -> str:
        if self.type != "cpu":
            return self.name
        sets = " ".join(self.instruction_sets) or "no vector instructions that the kernels use"
        return f"{self.name} ({sets}, {self.threads} thread{'s' * (self.threads != 1)})"
