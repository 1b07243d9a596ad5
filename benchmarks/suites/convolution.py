"""The ways to make the calls of convolution without glide_fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.contests import PLAIN, Arguments, Baseline
from glide_fast.ops.convolution.packed_weight import PackedWeight


def dense(a: Arguments) -> Arguments:
    """The arguments with the weight as ``[outputs, inputs, height, width]`` in the type of x."""
    weight = a["weight"].dense() if isinstance(a["weight"], PackedWeight) else a["weight"]
    bias = a.get("bias")
    return a | {
        "weight": weight if weight.dim() == 4 else weight[:, :, None, None],
        "bias": None if bias is None else bias.to(a["x"].dtype),
    }


def channels_first(a: Arguments) -> Arguments:
    """The arguments in the memory layout of the released code: contiguous."""
    return {
        name: value.contiguous() if isinstance(value, torch.Tensor) else value
        for name, value in dense(a).items()
    }


def plain(a: Arguments) -> list[torch.Tensor]:
    weight, padding = a["weight"], a.get("padding")
    if padding is None:
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    y = F.conv2d(a["x"], weight, a["bias"], a.get("stride", 1), padding)
    return [y if a.get("residual") is None else y + a["residual"]]


BASELINES = {
    PLAIN: Baseline(plain, dense),
    "official layout (channels first)": Baseline(plain, channels_first),
}
