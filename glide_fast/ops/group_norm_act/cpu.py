"""The C++ backend of group_norm_act for CPUs; the kernel is csrc/cpu/group_norm_act.kernel.cpp."""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act.arguments import RESAMPLINGS, Call, Facts, Result, why_not
from glide_fast.ops.layout import channel_rows

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
_RESAMPLE_CODES: dict[str | None, int] = {None: 0} | {name: i for i, name in enumerate(RESAMPLINGS, start=1)}
_NO_ROWS = (0, 0, 0)
_NO_CHANNELS = (0, 0, 0)


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    return why_not(facts, TYPE_CODES) or native.why_missing()


def run(call: Call, *, out: Result | None = None, isa: str = "") -> Result:
    """The op for calls that :func:`supports` accepts.

    ``out`` (channels-last) takes the result; ``isa`` forces one of ``glide_fast._C.isas()``.
    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library = native.load()
    if library is None:
        raise RuntimeError("group_norm_act's CPU kernel was called where it declines")
    x, x2, result = call.x, call.x2, call.empty_result() if out is None else out
    x_channels = x.shape[1]
    library.group_norm_act(
        TYPE_CODES[x.dtype],
        TYPE_CODES[result.y.dtype],
        x.shape[0],
        call.positions,
        x_channels,
        call.channels - x_channels,
        call.groups,
        x.shape[-1],
        _rows(x, call.x_rows),
        _rows(x2, call.x2_rows),
        _rows(call.residual, call.residual_rows),
        _rows(result.sum, channel_rows(result.sum)) if result.sum is not None and call.adds else _NO_ROWS,
        _rows(result.y, channel_rows(result.y)),
        _channels(call.x_bias),
        _channels(call.weight),
        _channels(call.bias),
        _channels(call.scale),
        _channels(call.shift),
        call.eps,
        call.silu,
        _RESAMPLE_CODES[call.resample],
        torch.get_num_threads(),
        isa,
    )
    return result


def _rows(tensor: torch.Tensor | None, strides: tuple[int, int] | None) -> tuple[int, int, int]:
    if tensor is None:
        return _NO_ROWS
    if strides is None:
        raise RuntimeError("group_norm_act's CPU kernel was called where it declines")
    return tensor.data_ptr(), *strides


def _channels(tensor: torch.Tensor | None) -> tuple[int, int, int]:
    """A vector, or one for each sample."""
    if tensor is None:
        return _NO_CHANNELS
    return tensor.data_ptr(), TYPE_CODES[tensor.dtype], tensor.stride(0) if tensor.dim() == 2 else 0
