"""The ways to make the calls of group_norm_act without glide_fast.

Every contestant allocates its result at each call, as in a model, and plain torch its intermediate results too; the copy writes
to memory that is there. For results of tens of megabytes the allocator may return the memory in between, and the page
faults of getting it again are then part of a contestant's time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.contestants import NormCall, Unable
from benchmarks.contests import PLAIN, Arguments, Baseline

DESCRIPTION = NormCall


def chain(normalise: Callable[[torch.Tensor, Arguments], torch.Tensor], a: Arguments) -> list[torch.Tensor]:
    """The op in eager torch, with ``norm`` as its group norm."""
    s = a["x"]
    if a.get("x_bias") is not None:
        s = s + a["x_bias"].to(s.dtype).view(-1, 1, 1)
    if a.get("residual") is not None:
        s = s + a["residual"]
    y = normalise(s if a.get("x2") is None else torch.cat([s, a["x2"]], dim=1), a)
    if a.get("scale") is not None:
        y = y * (1 + a["scale"].to(y.dtype)[:, :, None, None]) + a["shift"].to(y.dtype)[:, :, None, None]
    if a.get("silu"):
        y = F.silu(y)
    if a.get("resample") is not None:
        y = F.interpolate(y, scale_factor=2.0) if a["resample"] == "nearest_x2" else F.avg_pool2d(y, 2)
    y = y.to(a.get("out_dtype") or y.dtype)
    if a.get("windows"):
        n, channels, height, width = y.shape
        y = F.unfold(y, 3, padding=1).view(n, channels, 9, height, width).permute(0, 3, 4, 2, 1).contiguous()
    return [y, s] if a.get("keep_sum") else [y]


def in_own_type(s: torch.Tensor, a: Arguments) -> torch.Tensor:
    """A norm whose kernel sums in fp32."""
    return F.group_norm(s, a["groups"], a["weight"], a["bias"], a.get("eps", 1e-5))


def in_fp32(s: torch.Tensor, a: Arguments) -> torch.Tensor:
    """A norm between two conversions, as the released code has it."""
    return F.group_norm(s.float(), a["groups"], a["weight"], a["bias"], a.get("eps", 1e-5)).to(s.dtype)


def low(a: Arguments) -> Arguments:
    """The arguments with weight and bias in the type of x."""
    return a | {name: a[name].to(a["x"].dtype) for name in ("weight", "bias")}


def plain(a: Arguments) -> list[torch.Tensor]:
    return chain(in_own_type, a)


def official(a: Arguments) -> list[torch.Tensor]:
    return chain(in_fp32, a)


BASELINES = {PLAIN: Baseline(plain, low), "official fp32 chain": Baseline(official)}


def describe(a: Arguments) -> NormCall:
    """The call as a description for other packages, which normalise one tensor and fuse nothing."""
    for name in ("x2", "x_bias", "residual", "resample", "out_dtype", "keep_sum", "windows"):
        if a.get(name) is not None and a[name] is not False:
            raise Unable(f"not asked for calls with {name}")
    scale, shift = a.get("scale"), a.get("shift")
    return NormCall(
        a["x"], a["weight"], a["bias"], a["groups"], a.get("eps", 1e-5), scale, shift, bool(a.get("silu"))
    )
