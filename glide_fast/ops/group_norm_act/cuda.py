"""The CUDA C++ backend of group_norm_act; the kernels are csrc/group_norm_act/cuda.cuh."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator
from typing import Any

import torch

from glide_fast.ops import dependent_launch, native
from glide_fast.ops.group_norm_act import cost
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result, in_batches, why_not
from glide_fast.ops.group_norm_act.native_arguments import TYPE_CODES, arguments
from glide_fast.plans.file import Plan
from glide_fast.plans.signature import aligned, shapes

MOST_SAMPLES = 65535  # of one launch: they are the last dimension of a grid


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"x is on {facts.device}, not on a CUDA device"
    return why_not(facts, TYPE_CODES) or why_missing()


@functools.cache
def why_missing() -> str | None:
    """Why the CUDA half of the native library cannot run on this machine's devices; None where it can."""
    library = native.load()
    if library is None:
        return native.why_missing()
    record = native.build_record() or {}
    if not hasattr(library, "cuda"):
        return f"the native library was built without CUDA: {record.get('cuda_why_not', 'no reason was recorded')}"
    if reason := native.why_without("GroupNormAct"):
        return reason
    built = [str(target) for target in record.get("cuda_targets", [])]
    for device in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(device)
        if not any(_runs_on(target, major, minor) for target in built):
            return f"the native library was built for {', '.join(built) or 'no device'}, not for sm_{major}{minor}"
    return None


def _runs_on(target: str, major: int, minor: int) -> bool:
    """Machine code runs on later devices of its generation; an architecture-specific one ("sm_90a") on its own only."""
    digits = target.removeprefix("sm_").rstrip("af")
    built_major, built_minor = int(digits[:-1]), int(digits[-1])
    exact = target.endswith("a")
    return built_major == major and (built_minor == minor if exact else built_minor <= minor)


@functools.cache
def _device(index: int) -> Any:
    """What a plan depends on, of one device."""
    library = native.load()
    assert library is not None
    with torch.cuda.device(index):
        return library.cuda.current_device()


def plans(call: Call, device: Any = None) -> list[Plan]:
    """Every candidate for this call, the likeliest to be fast (:mod:`~glide_fast.ops.group_norm_act.cost`) first.

    There is none for more samples than a launch takes, and where the native library was built without CUDA.

    A plan names:

    - ``variant``: ``one_pass`` (a thread-block cluster holds some groups whole) or ``two_pass`` (moments, then the result);
    - ``slab``: the channels of a block;
    - ``chunks``: the blocks that share the rows of a slab, in one pass a cluster;
    - ``threads``: of a block;
    - ``held``: whether registers hold the rows between the two halves of one pass, and not shared memory.

    Args:
        call: its tensors' sizes, types and addresses count, wherever they are.
        device: ``glide_fast._C.cuda.Device``; by default that of x, and an H100 for tensors that are on no CUDA device.
    """
    if call.x.shape[0] > MOST_SAMPLES or not hasattr(native.load(), "cuda"):
        return []
    return [plan for plan, _ in predicted(call, device)]


def predicted(call: Call, device: Any = None) -> list[tuple[Plan, float]]:
    """:func:`plans`, each with the microseconds that it is predicted to take.

    Raises:
        RuntimeError: the native library was built without CUDA.
    """
    library = _library()
    if device is None:
        on_cuda = call.x.device.type == "cuda"
        device = _device(call.x.device.index) if on_cuda else library.cuda.Device(*HOPPER)
    given = library.GroupNormAct(*arguments(call, call.empty_result()).values())
    candidates = list(choices(call.channels, call.groups, call.x.dtype.itemsize))
    shape, found = _shape(call), []
    fitting = library.cuda.fitting_plans(given, device, candidates)
    for choice, plan in zip(candidates, fitting, strict=True):
        if plan is not None and plan.vector > 1:
            us = cost.microseconds(shape, _layout(plan), multiprocessors=device.multiprocessors)
            found.append((_named(*choice), us))
    if not found:
        # Elements one by one: nobody needs that fast.
        plan = library.cuda.plan_group_norm_act(given, device)
        found = [(_named(plan.one_pass, plan.slab, plan.chunks, plan.threads, plan.held), math.inf)]
    return sorted(found, key=lambda one: one[1])


HOPPER = (132, 227 * 1024, 16)
"""An H100: multiprocessors, bytes of shared memory that a block may have, blocks of a cluster."""
THREADS = (128, 192, 256, 384, 512)
CLUSTERS = (1, 2, 4, 8, 16)
CHUNKS = (8, 16, 32, 64, 128, 256)
WIDEST_SLAB = 1024  # bytes


def choices(channels: int, groups: int, itemsize: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The space of plans: one pass or not, slab, chunks, threads, held or not. Not all of them fit a call."""
    width = channels // groups
    slabs = [width * n for n in range(1, groups + 1) if groups % n == 0]
    for slab in slabs:
        if 32 <= slab * itemsize <= WIDEST_SLAB and slab * itemsize % 16 == 0:
            for threads in THREADS:
                for chunks in CLUSTERS:
                    yield (1, slab, chunks, threads, 0)
                    yield (1, slab, chunks, threads, 1)
                if threads in (128, 256, 512):
                    for chunks in CHUNKS:
                        yield (0, slab, chunks, threads, 0)


def _named(one_pass: int, slab: int, chunks: int, threads: int, held: int) -> Plan:
    variant = "one_pass" if one_pass else "two_pass"
    return {"variant": variant, "slab": slab, "chunks": chunks, "threads": threads, "held": bool(held)}


def _shape(call: Call) -> cost.Shape:
    """What the prediction depends on."""
    x = call.x.numel()
    values = x + (0 if call.x2 is None else call.x2.numel())
    written = call.empty_y().numel() * (call.out_dtype or call.x.dtype).itemsize / call.x.dtype.itemsize
    return cost.Shape(
        samples=call.x.shape[0],
        rows=call.positions,
        channels=call.channels,
        groups=call.groups,
        element_bytes=call.x.dtype.itemsize,
        silu=call.silu,
        read=1.0 if call.residual is None else (values + x) / values,
        written=(written + (x if call.keep_sum and call.adds else 0)) / values,
    )


def _layout(plan: Any) -> cost.Layout:
    return cost.Layout(*(getattr(plan, name) for name in cost.Layout._fields))


_chosen: dict[Hashable, Plan] = {}
_MOST_CHOSEN = 1000


def _choose(call: Call) -> Plan:
    """The first of :func:`plans`, remembered for calls of the same sizes, types, strides and alignment."""
    known = (call.x.device.index, aligned(call), shapes(call))
    plan = _chosen.get(known)
    if plan is None:
        if len(_chosen) >= _MOST_CHOSEN:
            _chosen.clear()
        plan = _chosen[known] = plans(call)[0]
    return plan


def _whole(call: Call, device: Any, plan: Plan) -> Plan:
    """``plan`` with what it leaves open settled by the likeliest candidate."""
    if plan.keys() - _FIELDS or plan.get("variant", "one_pass") not in ("one_pass", "two_pass"):
        accepted = ", ".join(sorted(_FIELDS))
        raise ValueError(f"group_norm_act: got the plan {plan}; accepted: {accepted}, of plans(call)")
    if plan.keys() == _FIELDS:
        return plan
    found = next((one for one in plans(call, device) if plan.items() <= one.items()), None)
    if found is None:
        raise ValueError(f"group_norm_act: no plan with {plan} fits this call")
    return found


def complete(given: Any, device: Any, plan: Plan) -> Any:
    """The native library's own form of a plan, for its form of a call (``glide_fast._C.GroupNormAct``).

    Raises:
        ValueError: it does not fit the call.
    """
    return _library().cuda.plan_group_norm_act(
        given,
        device,
        one_pass=plan["variant"] == "one_pass",
        slab=plan["slab"],
        chunks=plan["chunks"],
        threads=plan["threads"],
        held=plan["held"],
    )


_FIELDS = {"variant", "slab", "chunks", "threads", "held"}


def _library() -> Any:
    library = native.load()
    if library is None or not hasattr(library, "cuda"):
        raise RuntimeError("group_norm_act's CUDA kernels were called where they decline")
    return library


def run(call: Call, *, out: Result | None = None, plan: Plan | None = None, overlap: bool = False) -> Result:
    """The op for calls that :func:`supports` accepts, on the current stream of x's device; may be captured.

    Args:
        call: the arguments.
        out: takes the result (channels-last).
        plan: one of :func:`plans`, or some of its items, for which the likeliest of the others is taken.
        overlap: let the first kernel start before those before it on the stream have ended (programmatic dependent launch,
            compute capability 9 and later; no effect before), as :func:`glide_fast.ops.dependent_launch.allowed` does for all
            calls. Only where those did not write ``weight`` and ``bias``, which are read at once; all else is read after they
            have ended.

    Raises:
        ValueError: for a plan that does not fit these arguments.
    """
    library = _library()
    result = call.empty_result() if out is None else out
    device = call.x.device
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        facts = _device(device.index)
        for part, its_result in in_batches(call, result, MOST_SAMPLES):
            given = library.GroupNormAct(*arguments(part, its_result).values())
            chosen = _choose(part) if plan is None else _whole(part, facts, plan)
            completed = complete(given, facts, chosen)
            # From torch's allocator, which keeps it for this stream until the kernels have read it.
            workspace = torch.empty(completed.workspace_bytes, dtype=torch.uint8, device=device)
            kernels = library.cuda.Overlap
            able = facts.max_cluster and (overlap or dependent_launch.wanted(device))
            early = kernels.earlier if able else kernels.none
            library.cuda.group_norm_act(given, completed, workspace.data_ptr(), stream, early)
    return result
