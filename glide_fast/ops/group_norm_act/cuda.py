"""The CUDA C++ backend of group_norm_act; the kernels are csrc/cuda/group_norm_act.cuh."""

from __future__ import annotations

import functools
from typing import Any

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act.arguments import Call, Facts, Result, in_batches, why_not
from glide_fast.ops.layout import channel_rows

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MOST_SAMPLES = 65535  # of one launch: they are the last dimension of a grid
RESAMPLE_CODES = {None: 0, "nearest_x2": 1, "mean_2x2": 2}


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


def arguments(call: Call, result: Result) -> dict[str, Any]:
    """A call as ``glide_fast._C.cuda.GroupNormAct`` takes it.

    Raises:
        RuntimeError: for tensors that are not channels-last, which :func:`supports` declines.
    """
    found: dict[str, Any] = {
        "dtype": TYPE_CODES[call.x.dtype],
        "samples": call.x.shape[0],
        "rows": call.positions,
        "channels": call.channels,
        "groups": call.groups,
        "x_channels": call.x.shape[1],
        "eps": call.eps,
        "silu": call.silu,
        "resample": RESAMPLE_CODES[call.resample],
        "width": call.x.shape[-1] if call.resample else 0,
        "y_dtype": TYPE_CODES[result.y.dtype],
    }
    total = result.sum if call.adds else None
    activations = (
        ("x", call.x, call.x_rows),
        ("x2", call.x2, call.x2_rows),
        ("residual", call.residual, call.residual_rows),
        ("sum", total, None if total is None else channel_rows(total)),
        ("y", result.y, channel_rows(result.y)),
    )
    for name, tensor, strides in activations:
        if tensor is None:
            continue
        if strides is None:
            raise RuntimeError(f"group_norm_act's CUDA kernels were called with {name} not channels-last")
        found[name] = (tensor.data_ptr(), *strides)
    per_channel = (
        ("weight", call.weight),
        ("bias", call.bias),
        ("in_bias", call.x_bias),
        ("scale", call.scale),
        ("shift", call.shift),
    )
    for name, tensor in per_channel:
        if tensor is not None:
            stride = tensor.stride(0) if tensor.dim() == 2 else 0
            found[name] = (tensor.data_ptr(), TYPE_CODES[tensor.dtype], stride)
    return found


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
            given = library.cuda.GroupNormAct(**arguments(part, its_result))
            plan = library.cuda.plan_group_norm_act(given, _device(device.index), variant)
            # From torch's allocator, which keeps it for this stream until the kernels have read it.
            workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=device)
            library.cuda.group_norm_act(given, plan, workspace.data_ptr(), stream)
    return result
