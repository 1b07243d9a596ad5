"""The CUDA C++ backend of group_norm_act; the kernels are csrc/cuda/group_norm_act.cuh."""

from __future__ import annotations

import functools

import torch

from glide_fast.ops import native
from glide_fast.ops.group_norm_act_call import Call, Facts, Result
from glide_fast.ops.layout import channel_rows

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def supports(facts: Facts) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if facts.device != "cuda":
        return f"x is on {facts.device}, not on a CUDA device"
    for name, dtype in (("x", facts.dtype), ("weight", facts.affine_dtype), ("scale", facts.film_dtype)):
        if dtype is not None and dtype not in TYPE_CODES:
            return f"{name} is {dtype}; the kernels take float32, bfloat16 and float16"
    if facts.extras:
        return f"{facts.extras} given; the kernels take none of these"
    if not facts.alike:
        return "weight and bias, or scale and shift, differ in type, or are not side by side in memory on x's device"
    if facts.gradients:
        return "gradients are wanted; the kernels have no backward pass"
    if facts.tracing:
        return "torch.compile is tracing; it cannot see into the kernels"
    if facts.empty:
        return "x holds no elements"
    if not facts.channels_last:
        return "x is not channels-last"
    return why_missing()


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


def run(call: Call, *, out: Result | None = None, variant: str = "") -> Result:
    """The op for calls that :func:`supports` accepts, on the current stream of x's device; may be captured.

    ``out`` (channels-last) takes the result; ``variant`` forces ``one_pass`` (thread-block clusters,
    where a slab fits their shared memory) or ``two_pass``.

    Raises:
        ValueError: for a variant that these arguments do not allow.
    """
    library = native.load()
    x, weight, bias, scale, shift = call.x, call.weight, call.bias, call.scale, call.shift
    result = call.empty_result() if out is None else out
    y = result.y
    x_strides, y_strides = call.x_rows, channel_rows(y)
    if library is None or x_strides is None or y_strides is None:
        raise RuntimeError("group_norm_act's CUDA kernels were called where they decline")
    samples, channels = x.shape[:2]
    film = {}
    if scale is not None and shift is not None:
        film = {
            name: (tensor.data_ptr(), TYPE_CODES[tensor.dtype], tensor.stride(0))
            for name, tensor in (("scale", scale), ("shift", shift))
        }
    arguments = library.cuda.GroupNormAct(
        dtype=TYPE_CODES[x.dtype],
        samples=samples,
        rows=x.numel() // (samples * channels),
        channels=channels,
        groups=call.groups,
        x=(x.data_ptr(), *x_strides),
        y=(y.data_ptr(), *y_strides),
        weight=(weight.data_ptr(), TYPE_CODES[weight.dtype], 0),
        bias=(bias.data_ptr(), TYPE_CODES[bias.dtype], 0),
        eps=call.eps,
        silu=call.silu,
        **film,
    )
    plan = library.cuda.plan_group_norm_act(arguments, _device(x.get_device()), variant)
    # From torch's allocator, which keeps it for this stream until the kernels have read it.
    workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=x.device)
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream(x.device).cuda_stream
        library.cuda.group_norm_act(arguments, plan, workspace.data_ptr(), stream)
    return result
