"""Whether a weight is to be held as Winograd's kernel reads it: what was measured of its convolution, else a rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glide_fast.ops.convolution import winograd_weight
from glide_fast.ops.convolution.window import window
from glide_fast.plans.device import Device
from glide_fast.plans.signature import PACKED, option_part, tensor_part
from glide_fast.plans.table import table_of

NOISE = 1.02
"""Times within this factor are equal: the rule decides then."""


def in_tiles(weight: torch.Tensor, input_shape: Sequence[int], stride: int = 1) -> bool:
    """Whether Winograd's kernel was the fastest for this weight on this device, or is by a rule where nobody measured.

    A weight is packed before it is known what its convolution adds, so all measured calls of these sizes count together, with
    the microseconds that the faster backend saves.

    Args:
        weight: ``[O, C, kh, kw]`` of the type that the convolution will have, on the CPU.
        input_shape: ``[N, C, H, W]`` of its inputs, which are channels-last.
    """
    saved = _saved(weight, input_shape, stride)
    return saved > 0 if saved else winograd_weight.why_not_worth() is None


def _saved(weight: torch.Tensor, input_shape: Sequence[int], stride: int) -> float:
    """Microseconds a call that Winograd's kernel saves over oneDNN's, below 0 where it costs more; 0 where nobody measured."""
    rows = table_of(Device.of(weight.device)).rows("convolution")
    if not rows:
        return 0.0
    x = torch.empty(tuple(input_shape), dtype=weight.dtype, device="meta", memory_format=torch.channels_last)
    _, strides, padding = window(weight, stride)
    wanted = {
        tensor_part("x", x),
        tensor_part("weight", weight, PACKED),
        option_part("stride", strides),
        option_part("padding", padding),
    }
    saved = 0.0
    for call, measured in rows.items():
        if not wanted <= set(call.split(", ")):
            continue
        first, second = measured.row.fastest, measured.row.runner_up
        if second is not None and {first.backend, second.backend} == {"winograd", "onednn"}:
            if second.us < NOISE * first.us:
                continue
            saved += (second.us - first.us) * (1 if first.backend == "winograd" else -1)
    return saved
