"""Winograd's algorithm as a backend of convolution on CPUs: 3x3, bf16, two thirds of the products.

Its error against the exact sum is about twice that of a plain bf16 convolution, because sums and differences of pixels and of
weights are rounded to bf16 once more (Lavin and Gray 2016). That is so for values that vary as much as their mean is large, as
they do behind a norm; the rounding of a sum of two pixels grows with their mean, also where the kernel cancels it.
"""

from __future__ import annotations

import torch

from glide_fast.ops import native
from glide_fast.ops.convolution import winograd_weight
from glide_fast.ops.convolution.arguments import Call, Facts
from glide_fast.ops.convolution.packed_weight import PackedWeight

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def supports(facts: Facts) -> str | None:
    """Why it cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"x is on {facts.device}, not on the CPU"
    reason = winograd_weight.why_not(facts.dtype, *facts.channels, facts.window, facts.size[1])
    if reason is not None:
        return reason
    if not facts.tiled:
        return "the weight is not in the kernel's layout, or bias is not side by side in memory"
    if not facts.alike:
        return "the operands are on different devices"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x or residual is not channels-last"
    return None


def run(call: Call, *, isa: str = "") -> torch.Tensor:
    """The op for calls that :func:`supports` accepts; ``isa`` forces one of ``glide_fast._C.isas()``.

    Runs on ``torch.get_num_threads()`` threads at most; the result is the same, bit for bit, for any number.
    """
    library, x, weight, bias, residual = native.load(), call.x, call.weight, call.bias, call.residual
    tiles = weight.tiles if isinstance(weight, PackedWeight) else None
    if library is None or tiles is None:
        raise RuntimeError("Winograd's kernel was called where it declines")
    n, channels, height, width = x.shape
    threads = torch.get_num_threads()
    sizes = (n, height, width, channels)
    y = call.empty_result()
    scratch = torch.empty(library.winograd_scratch(sizes, threads), dtype=torch.uint8, device=x.device)
    library.winograd(
        x.data_ptr(),
        tiles.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if bias is None else TYPE_CODES[bias.dtype],
        0 if residual is None else residual.data_ptr(),
        y.data_ptr(),
        sizes,
        weight.shape[0],
        scratch.data_ptr(),
        threads,
        isa,
    )
    return y
