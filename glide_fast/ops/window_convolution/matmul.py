"""torch's matrix product as a backend of window_convolution: cuBLAS on a GPU, with bias or residual in its epilogue.

A bias goes into the product's own epilogue (torch hands a vector to cuBLASLt). A residual is what the product is added to (beta
of 1), which torch copies first, to leave the caller's as it is.
"""

from __future__ import annotations

import torch

from glide_fast.ops.exact_sums import exact_sums
from glide_fast.ops.window_convolution.arguments import Call, Facts


def supports(facts: Facts) -> str | None:
    """Why it cannot serve this call, or None."""
    if facts.device == "cpu" and facts.dtype == torch.float16:
        return "float16 products on a CPU are a thousand times slower than bfloat16 and float32 ones"
    if facts.gradients:
        return "gradients are wanted; they are the reference's"
    if facts.empty:
        return "windows holds no elements"
    if not facts.dense:
        return "windows is not contiguous, weight or residual not channels-last, or bias not side by side in memory"
    return None


def run(call: Call) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts."""
    bias, residual = call.bias, call.residual
    rows = call.windows.flatten(0, 2).flatten(1)
    columns = call.weight.permute(0, 2, 3, 1).flatten(1).t()
    if bias is not None:
        bias = bias.to(rows.dtype)
    with exact_sums(rows):
        if residual is not None:
            onto = residual.permute(0, 2, 3, 1).flatten(0, 2)
            y = torch.addmm(onto if bias is None else onto + bias, rows, columns)
        elif bias is not None:
            y = torch.addmm(bias, rows, columns)
        else:
            y = torch.mm(rows, columns)
    return y.view(*call.windows.shape[:3], -1).permute(0, 3, 1, 2)
