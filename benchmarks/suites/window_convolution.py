"""Who makes the calls of window_convolution besides glide_fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.contests import PLAIN, Arguments, Baseline


def picture(a: Arguments) -> Arguments:
    """With ``x``, the middle pixels of the windows, which are the picture."""
    x = a["windows"][:, :, :, 4].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    bias = a.get("bias")
    return a | {"x": x, "bias": None if bias is None else bias.to(x.dtype)}


def plain(a: Arguments) -> list[torch.Tensor]:
    """A convolution of the picture."""
    y = F.conv2d(a["x"], a["weight"], a["bias"], padding=1)
    return [y if a.get("residual") is None else y + a["residual"]]


BASELINES = {PLAIN: Baseline(plain, picture)}
