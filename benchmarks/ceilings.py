"""What the device itself can do, measured: no op is faster than a copy of its bytes, a product of its FLOPs, or an empty call."""

from __future__ import annotations

import torch

from benchmarks.timing import Call, Effort, interleaved


def measured(
    device: str, effort: Effort, megabytes: int = 256, side: int = 0
) -> dict[str, tuple[float, str]]:
    """Name -> (value, unit) of the bandwidth of a copy (both directions counted), the best matrix product and the shortest call.

    ``side`` of the square matrices; 0 for one that fits the device. On the CPU in bf16 and fp32, on CUDA in fp16 and bf16.
    """
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(
        source
    ).zero_()  # its pages are there: a clone on the CPU would time the system's giving them
    calls: dict[str, Call] = {"copy": lambda: target.copy_(source)}
    side = side or (8192 if device == "cuda" else 1024)
    for dtype in (torch.float16, torch.bfloat16) if device == "cuda" else (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        calls[f"gemm {str(dtype).removeprefix('torch.')}"] = lambda a=a, b=b: a @ b  # type: ignore[misc]
    one = torch.zeros(1, device=device)
    calls["empty call"] = lambda: one.add_(0)
    with torch.inference_mode():
        timings = interleaved(calls, device, effort)
    result = {"copy": (2 * source.numel() / timings["copy"].best / 1e3, "GB/s")}
    for name, timing in timings.items():
        if name.startswith("gemm"):
            result[name] = (2 * side**3 / timing.best / 1e6, "TFLOP/s")
    result["empty call"] = (timings["empty call"].median, "us")
    return result
