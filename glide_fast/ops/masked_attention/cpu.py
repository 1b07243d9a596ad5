"""The C++ backend of masked_attention for CPUs; it shares its kernels, in csrc/attention, with text_attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glide_fast.ops import attention, native
from glide_fast.ops.attention import HEAD_SIZES, TYPE_CODES
from glide_fast.ops.masked_attention.arguments import Call, Facts
from glide_fast.plans.file import Plan


def supports(facts: Facts) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if facts.device != "cpu":
        return f"the tensors are on {facts.device}, not on the CPU"
    if facts.dtype not in TYPE_CODES:
        return f"q is {facts.dtype}; the kernel takes float32 and bfloat16"
    if facts.head_size not in HEAD_SIZES:
        return f"heads are {facts.head_size} wide; the kernel takes {', '.join(map(str, HEAD_SIZES))}"
    if facts.gradients:
        return "gradients are wanted; the kernel has no backward pass"
    if facts.empty:
        return "q holds no elements"
    if not facts.side_by_side:
        return "a token's channels in q, k or v are not side by side"
    return native.why_without("masked_attention")


def plans(call: Call) -> Iterator[Plan]:
    """Every plan that :func:`run` takes for this call, the best guess first: an instruction set."""
    return attention.cpu_plans(call.q.dtype)


def run(
    call: Call,
    *,
    out: torch.Tensor | None = None,
    isa: str = "",
    plan: Plan | None = None,
) -> torch.Tensor:
    """The op for calls that :func:`supports` accepts.

    ``out`` (of q's shape and type, a token's channels side by side) takes the result; ``isa``, ``plan``, threads and scratch
    memory are as in :func:`glide_fast.ops.text_attention.cpu.run`. The result is the same, bit for bit, for any number of
    threads.
    """
    library, q, k, v, lengths = native.load(), call.q, call.k, call.v, call.lengths
    result = call.empty_result() if out is None else out
    if library is None or any(x.stride(2) != 1 for x in (q, k, v, result)):
        raise RuntimeError("masked_attention's CPU kernel was called where it declines")
    counts = None if lengths is None else lengths.to(torch.int64).contiguous()
    library.masked_attention(
        *((x.data_ptr(), x.stride(0), x.stride(1)) for x in (q, k, v, result)),
        0 if counts is None else counts.data_ptr(),
        call.causal,
        TYPE_CODES[q.dtype],
        q.shape[0],
        call.heads,
        call.head_size,
        q.shape[1],
        k.shape[1],
        torch.get_num_threads(),
        attention.planned_isa(plan, q.dtype, isa),
    )
    return result
