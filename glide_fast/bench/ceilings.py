"""The device's measured limits: no op is faster than a copy of its bytes, a matrix product of its FLOPs, or an empty call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from glide_fast.bench.record import Row
from glide_fast.bench.timing import Call, Effort, interleaved

SIDES = {"cuda": (2048, 4096, 8192, 16384), "cpu": (512, 1024, 2048)}
TYPES = {"cuda": (torch.float16, torch.bfloat16, torch.float32), "cpu": (torch.bfloat16, torch.float32)}
MEGABYTES = 256


def measured(
    device: str, effort: Effort, megabytes: int = MEGABYTES, sides: Sequence[int] = ()
) -> dict[str, tuple[float, str]]:
    """Name -> (value, unit) of the bandwidth of a copy (both directions counted), the best matrix products and the shortest call.

    "copy" writes to memory that is there; "clone" asks for new memory, which on a CPU means new pages of the system's. Of
    the square products over ``sides`` the best of each type is given, with its side in the name.
    """
    one = torch.zeros(1, device=device)
    with torch.inference_mode():
        result = bandwidths(device, effort, megabytes << 20)
        for dtype in TYPES[device]:
            rates = [(product(dtype, side, device, effort), side) for side in sides or SIDES[device]]
            rate, side = max(rates)
            result[f"gemm {str(dtype).removeprefix('torch.')}, {side} cubed"] = (rate, "TFLOP/s")
        empty = interleaved({"empty call": lambda: one.add_(0)}, device, effort)["empty call"]
    result["empty call"] = (empty.median, "us")
    if empty.from_python is not None:
        result["empty call from Python"] = (empty.from_python, "us")
    return result


def rows(found: Mapping[str, tuple[float, str]]) -> list[Row]:
    """The results of :func:`measured`, as rows of a CSV."""
    return [{"ceiling": name, "value": f"{value:.3f}", "unit": unit} for name, (value, unit) in found.items()]


def bandwidths(device: str, effort: Effort, size: int) -> dict[str, tuple[float, str]]:
    """GB/s of a copy of ``size`` bytes and of a clone, the best of their samples; reading and writing both count."""
    source = torch.empty(size, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source).zero_()
    calls: dict[str, Call] = {"copy": lambda: target.copy_(source), "clone": source.clone}
    timings = interleaved(calls, device, effort)
    return {name: (2 * size / timing.best / 1e3, "GB/s") for name, timing in timings.items()}


def product(dtype: torch.dtype, side: int, device: str, effort: Effort) -> float:
    """TFLOP/s of a square product, the best of its samples."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / interleaved({"gemm": lambda: a @ b}, device, effort)["gemm"].best / 1e6
