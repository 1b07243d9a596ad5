"""Predicts group_norm_act's time on an H100 for GLIDE's shapes, for the CUDA kernels here and for those that were measured.

    python -m benchmarks.norm_model            # a line for each shape: the plan predicted to be the best, and what it rests on
    python -m benchmarks.norm_model --plans 5  # the five best plans of each shape
    python -m benchmarks.norm_model --check    # how well the model reproduces the measured sweep of earlier kernels

The model is ``glide_fast/ops/group_norm_act/cost.py``, the measurements are in ``benchmarks/results/nvidia-h100-053c154``.
Nothing is run. Needs the native library with its CUDA half, for the plans of the kernels here; ``--check`` does not.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from pathlib import Path
from typing import NamedTuple

import torch

from glide_fast.ops.group_norm_act import cost, cuda
from glide_fast.ops.group_norm_act.arguments import Call

MEASURED = Path(__file__).resolve().parent / "results" / "nvidia-h100-053c154"
GROUPS = 32

TARGETS = {
    (2, 768, 8): 5.0, (2, 576, 16): 5.0, (2, 384, 32): 6.0, (2, 192, 64): 8.0, (1, 192, 128): 8.0, (2, 384, 64): 10.0,
    (32, 192, 64): 1.25, (32, 384, 32): 1.5, (1, 192, 256): 1.7,
}  # fmt: skip
"""By samples, channels and side: microseconds, or, where the bytes count, times a copy."""
BY_COPY = {(32, 192, 64), (32, 384, 32), (1, 192, 256)}


class Measured(NamedTuple):
    """A line of the sweep."""

    key: tuple[int, int, int]  # samples, channels, side
    variant: str
    threads: int
    chunks: int
    slab: int
    us: float


def measured(name: str = "group_norm_act-plans.csv") -> list[Measured]:
    """The lines of one file."""
    with (MEASURED / name).open(encoding="utf-8", newline="") as file:
        return [
            Measured(
                (int(row["n"]), int(row["c"]), int(row["side"])),
                row["variant"],
                int(row["threads"]),
                int(row["chunks"]),
                int(row["slab"]),
                float(row["us"]),
            )
            for row in csv.DictReader(file)
        ]


def before(line: Measured) -> float | None:
    """What the model says of a plan of the earlier kernels; None where it is no plan of theirs."""
    (samples, channels, side), slab = line.key, line.slab
    if line.variant not in ("one_pass", "two_pass") or line.threads < slab // 8:
        return None
    one_pass = line.variant == "one_pass"
    chunk_rows = -(-side * side // line.chunks)
    # Rows where shared memory holds them, a mean and a sum for each channel of a thread, and the groups' moments.
    shared = (chunk_rows * slab * 2 if one_pass else 0) + line.threads * 64 + slab * GROUPS // channels * 20
    layout = cost.Layout(
        one_pass, False, slab, line.chunks, line.threads, 8, line.threads // (slab // 8), chunk_rows,
        channels // slab, shared,
    )  # fmt: skip
    return cost.microseconds(
        cost.Shape(samples, side * side, channels, GROUPS, 2), layout, cost.KERNELS_053C154
    )


class Fit(NamedTuple):
    """How well the model reproduces the sweep."""

    plans: int
    median: float  # of the relative errors
    ninth_tenth: float  # nine of ten are below
    regret: dict[
        tuple[int, int, int], float
    ]  # the measured time of the plan predicted to be the best, by the best measured


def fit() -> Fit:
    """The model against all lines of the sweep."""
    errors: list[float] = []
    by_shape: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
    for line in measured():
        predicted = before(line)
        if predicted is not None:
            errors.append(abs(math.log(predicted / line.us)))
            by_shape.setdefault(line.key, []).append((predicted, line.us))
    regret = {key: min(pairs)[1] / min(us for _, us in pairs) for key, pairs in by_shape.items()}
    return Fit(len(errors), statistics.median(errors), sorted(errors)[int(0.9 * len(errors))], regret)


def call_of(samples: int, channels: int, side: int) -> Call:
    """A call as it was measured; memory is reserved, not touched."""
    x = torch.empty(samples, channels, side, side, dtype=torch.float16, memory_format=torch.channels_last)
    scale, shift = torch.empty(2, samples, channels)
    vector = torch.empty(channels)
    return Call(
        x, vector, vector, GROUPS, scale=scale, shift=shift, silu=True, x_bias=torch.empty(channels).half()
    )


def _print_fit() -> None:
    found = fit()
    print(
        f"{found.plans} plans of the kernels of commit 053c154: median error {found.median:.1%}, nine of ten within"
        f" {found.ninth_tenth:.0%}"
    )
    print("the plan that the model takes, by the best that was measured:")
    for (samples, channels, side), ratio in found.regret.items():
        print(f"  {samples}x{channels}x{side}x{side}: {ratio:.2f}")


def _print_shapes(most: int) -> None:
    copies = {line.key: line.us for line in measured("group_norm_act-default.csv") if line.variant == "copy"}
    landed = {
        line.key: line.us for line in measured("group_norm_act-default.csv") if line.variant == "default"
    }
    best: dict[tuple[int, int, int], Measured] = {}
    for line in measured():
        if line.variant != "copy" and (line.key not in best or line.us < best[line.key].us):
            best[line.key] = line
    print(
        "us. Measured: a copy, the kernels of 053c154 with their own plan and with their best."
        " Predicted: that best (model), the kernels here."
    )
    print(
        f"{'shape':15} {'copy':>6} {'default':>8} {'best':>6} {'(model)':>8} {'now':>6} {'target':>7}  plan"
    )
    for key, copy in copies.items():
        samples, channels, side = key
        target = TARGETS.get(key)
        wanted = "" if target is None else f"{target * copy if key in BY_COPY else target:.1f}"
        found = cuda.predicted(call_of(samples, channels, side))[:most]
        for place, (plan, us) in enumerate(found):
            name = f"{samples}x{channels}x{side}x{side}" if place == 0 else ""
            figures = (
                f"{copy:6.1f} {landed[key]:8.1f} {best[key].us:6.1f} {before(best[key]) or math.nan:8.1f}"
                if place == 0
                else " " * 31
            )
            how = " ".join(
                [
                    str(plan["variant"]),
                    *(f"{key} {plan[key]}" for key in ("slab", "chunks", "threads")),
                    "held" if plan["held"] else "",
                ]
            )
            print(f"{name:15} {figures} {us:6.1f} {wanted if place == 0 else '':>7}  {how}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", type=int, default=1, help="how many plans of each shape")
    parser.add_argument("--check", action="store_true", help="compare with the measured sweep")
    arguments = parser.parse_args()
    if arguments.check:
        _print_fit()
    else:
        _print_shapes(arguments.plans)


if __name__ == "__main__":
    main()
