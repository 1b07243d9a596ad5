"""The C++ backend of resample for CPUs; the kernel is csrc/resample/cpu.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.layout import pixel_strides
from glide_fast.ops.resample.arguments import NEAREST_X2, Call, Facts, why_not

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    return why_not(facts, TYPE_CODES) or native.why_missing()


def run(call: Call, *, out: torch.Tensor | None = None, isa: str = "") -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels side by side) takes the result; ``isa`` forces one of ``glide_fast._C.isas()``. Runs on
    ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library = native.load()
    x, bias, residual = call.x, call.bias, call.residual
    n, channels, height, width = x.shape
    y = call.empty_result() if out is None else out
    x_strides, y_strides = pixel_strides(x), pixel_strides(y)
    residual_strides = (0, 0, 0) if residual is None else pixel_strides(residual)
    if library is None or x_strides is None or y_strides is None or residual_strides is None:
        raise RuntimeError("resample's CPU kernel was called where it declines")
    library.resample(
        x.data_ptr(),
        y.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        TYPE_CODES[x.dtype],
        0 if bias is None else bias.data_ptr(),
        0 if bias is None else TYPE_CODES[bias.dtype],
        call.mode == NEAREST_X2,
        (n, height, width, channels),
        x_strides,
        y_strides,
        residual_strides,
        torch.get_num_threads(),
        isa,
    )
    return y
