"""The time of a picture on a CPU with threads that sleep while they wait, and with threads that spin (:mod:`glide_fast.openmp`).

Measure it on a machine that does nothing else, since spinning threads only help there. The note has the system's load before
the measurement.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

from glide_fast.bench import fresh
from glide_fast.bench.measurement import Measurement, timed
from glide_fast.bench.settings import Settings
from glide_fast.bench.timing import summarise
from glide_fast.errors import invalid
from glide_fast.openmp import WAIT_POLICY

POLICIES = ("ACTIVE", "PASSIVE")
"""The first is what speed-ups refer to."""
PICTURES = 3
"""Of each process, after a first one that is not timed."""
STEPS = 10
"""Of each stage, where no other number is asked for."""


def measure(settings: Settings) -> Iterator[Measurement]:
    """Seconds a picture under each policy, of fresh processes that take turns, since OpenMP reads the policy once a process.

    InvalidInputError for a device other than a CPU, whose threads do not wait for one another.
    """
    if settings.target_device.type != "cpu":
        raise invalid("device", str(settings.target_device), "cpu for the part waiting")
    settings = dataclasses.replace(settings, steps=settings.steps or STEPS)
    note = f"load {os.getloadavg()[0]:.2f} before" if hasattr(os, "getloadavg") else ""
    with fresh.directories(settings.models) as pipelines:
        for title, name in pipelines:
            found: dict[str, list[float]] = {policy: [] for policy in POLICIES}
            for taken in range(settings.samples):
                # Every other round the other way round.
                for policy in POLICIES[:: 1 if taken % 2 == 0 else -1]:
                    environment = {WAIT_POLICY: policy}
                    answer = fresh.run(name, settings, fast=True, environment=environment, pictures=PICTURES)
                    found[policy] += answer["pictures"]
            timings = {policy: summarise(seconds) for policy, seconds in found.items()}
            for policy, timing in timings.items():
                yield Measurement(
                    "waiting",
                    title,
                    f"a picture, {settings.steps} steps a stage",
                    f"{WAIT_POLICY}={policy}",
                    speedup=timings[POLICIES[0]].median / timing.median,
                    note=note,
                    **timed(timing),  # type: ignore[arg-type]
                )
