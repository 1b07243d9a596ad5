"""A fault of oneDNN: some bf16 convolutions whose result is one pixel wide.

Seen with torch 2.13 on a processor with AMX: with a horizontal stride above 1 and a result of one column, oneDNN returned 1e19
or NaN, at most heights, for kernels of 1x3 to 7x7, in all layouts. fp32 and fp16 were right, and so was bf16 at a stride of 1
or from two columns on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def why_wrong(device: str, dtype: torch.dtype, stride: int, width: int) -> str | None:
    """Why oneDNN is not to convolve this; None where it is right.

    Args:
        device, dtype: of x, the former as in ``torch.device.type``.
        stride: the horizontal one.
        width: of the result.
    """
    if device == "cpu" and dtype == torch.bfloat16 and stride > 1 and width == 1:
        return "oneDNN gives wrong values in bfloat16 where a stride leaves one column"
    return None


Convolve = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


def in_fp32(
    convolve: Convolve, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``convolve(x, weight, bias)`` in fp32, rounded to x's type once."""
    return convolve(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
