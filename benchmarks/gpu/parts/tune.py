"""Measures every plan of every backend on this device, so that what is measured afterwards runs with the fastest.

The file goes where those that ship are: commit it with the results.
"""

from __future__ import annotations

import re
import sys

import torch

from benchmarks.gpu import command
from benchmarks.gpu.part import GREEN, RED, UNFINISHED, Outcome, Part, Setting
from glide_fast.plans.device import Device
from glide_fast.plans.table import SHIPPED

MINUTES = 5.0


def run(setting: Setting) -> Outcome:
    """``glide-fast tune``, as long as the part may take; in small a few calls of the CPU, into the results' folder."""
    file = (setting.folder if setting.small else SHIPPED) / Device.of(torch.device(setting.device)).file
    minutes = min(MINUTES, setting.seconds_left / 60 - 0.5)
    asked = ["tune", "--device", setting.device, "--out", str(file), "--minutes", f"{minutes:.2f}", "--quiet"]
    asked += ["--op", "masked_attention", "--minutes", "0.05"] if setting.small else []
    ran = command.run([sys.executable, "-m", "glide_fast", *asked], setting.seconds_left)
    if ran.status is None:
        return Outcome(UNFINISHED, (file,) if file.exists() else (), ("did not end in its time",))
    left = re.search(r"(\d+) calls to go on with", ran.output)
    if ran.status != 0 or left is None:
        return Outcome(RED, notes=(f"exit status {ran.status}: {ran.tail}",))
    wrong = tuple(line for line in ran.output.splitlines() if line.startswith("no row for "))
    notes = (*wrong, *((f"{left[1]} calls to go on with",) if left[1] != "0" else ()))
    state = UNFINISHED if left[1] != "0" and not setting.small else GREEN
    return Outcome(state, (file,) if file.exists() else (), notes)


def parts(setting: Setting) -> tuple[Part, ...]:
    return (
        Part(
            "tune",
            "the fastest backend and plan of each of GLIDE's calls",
            run,
            60 * MINUTES,
            least=90,
            in_process=True,
        ),
    )
