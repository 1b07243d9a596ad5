"""The CUDA C++ backend of group_norm_act; the kernels are csrc/group_norm_act/cuda.cuh."""

from __future__ import annotations

import functools

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result, in_batches, why_not
from glide_fast.ops.group_norm_act.native_arguments import TYPE_CODES, arguments

MOST_SAMPLES = 65535  # of one launch: they are the last dimension of a grid


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"x is on {facts.device}, not on a CUDA device"
    if facts.windows:
        return "windows are wanted; the kernels write pictures"
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
def _device(index: int) -> object:
    """What a plan depends on, of one device."""
    library = native.load()
    assert library is not None
    with torch.cuda.device(index):
        return library.cuda.current_device()


def run(call: Call, *, out: Result | None = None, variant: str = "") -> Result:
    """The op for calls that :func:`supports` accepts, on the current stream of x's device; may be captured.

    ``out`` (channels-last) takes the result; ``variant`` forces ``one_pass`` (thread-block clusters, where a slab fits their
    shared memory) or ``two_pass``.

    Raises:
        ValueError: for a variant that these arguments do not allow.
    """
    library = native.load()
    if library is None:
        raise RuntimeError("group_norm_act's CUDA kernels were called where they decline")
    result = call.empty_result() if out is None else out
    device = call.x.device
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        for part, its_result in in_batches(call, result, MOST_SAMPLES):
            given = library.GroupNormAct(*arguments(part, its_result).values())
            plan = library.cuda.plan_group_norm_act(given, _device(device.index), variant)
            # From torch's allocator, which keeps it for this stream until the kernels have read it.
            workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=device)
            library.cuda.group_norm_act(given, plan, workspace.data_ptr(), stream)
    return result
