"""guided_step in one kernel: a program advances a block of elements of one image; it reads and writes each operand once.

It is bound by memory: an element moves the state, x0 and the optional operands in fp32, and two or three values of the
network's output. Noise drawn in the kernel moves nothing. Beside that the FLOPs (about 40, and 60 for a normal number) are few.

Compile with ``enable_fp_fusion=False``: at the noisiest step x0 is the difference of two numbers 2e4 times as large, so
products and sums are rounded one by one, as the reference rounds them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .build import Build


class Plan(NamedTuple):
    """How an image is cut up."""

    block: int  # elements of a program, a power of two
    warps: int


PLANS = (Plan(512, 4), Plan(256, 2), Plan(256, 4), Plan(1024, 4), Plan(1024, 8), Plan(2048, 8))
"""Every cut that is worth a measurement.

With the first, which is the guess, each of 128 threads draws one block of Philox, which is four elements, and loads 16 bytes at
once.
"""


@triton.jit
def _cosine_sine(u):  # type: ignore[no-untyped-def]
    """cos and sin of 2 pi u for u in [0, 1].

    Whole quarter turns are subtracted exactly; minimax polynomials serve the rest, with an error of 5e-9 before rounding. The
    functions of CUDA's device library are avoided because they also reduce huge angles, with a table on the stack.
    """
    quarters = u * 4.0
    whole = tl.floor(quarters + 0.5)
    r = quarters - whole
    z = r * r
    s = (((-0.00460217707 * z + 0.0796802267) * z - 0.64596349) * z + 1.57079637) * r
    c = (((0.000903631677 * z - 0.0208600722) * z + 0.253669202) * z - 1.23370051) * z + 1.0
    quadrant = whole.to(tl.int32)
    swapped = (quadrant & 1) != 0
    cosine = tl.where(swapped, s, c)
    sine = tl.where(swapped, c, s)
    cosine = tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine)
    sine = tl.where((quadrant & 2) != 0, -sine, sine)
    return cosine, sine


@triton.jit
def _uniform(word):  # type: ignore[no-untyped-def]
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10  # 2^-32, 2^-33


@triton.jit
def _normals(seed, step, stream, first_block, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """``[BLOCK]`` standard normals, from block ``first_block`` of an image on; glide_fast/diffusion/noise.py defines them."""
    block = (first_block + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero = block * 0
    r0, r1, r2, r3 = tl.philox(seed, block, zero + step.to(tl.uint32), zero + stream.to(tl.uint32), zero)
    radius0 = tl.sqrt_rn(-2.0 * tl.log(_uniform(r0)))
    radius1 = tl.sqrt_rn(-2.0 * tl.log(_uniform(r2)))
    cos0, sin0 = _cosine_sine(_uniform(r1))
    cos1, sin1 = _cosine_sine(_uniform(r3))
    return tl.interleave(
        tl.interleave(radius0 * cos0, radius1 * cos1), tl.interleave(radius0 * sin0, radius1 * sin1)
    )


@triton.jit(do_not_specialize=["stream", "guidance_scale"])
def guided_step_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # [N, C, P]; this and all pointers below are fp32 and dense unless a comment says otherwise
    model_ptr,  # [N or 2 N, 2 C, P], any float type, strides below
    table_ptr,  # [rows, 13]
    step_ptr,  # int64, one (stride 0) or [N]
    noise_ptr,  # this and the optional ones below are None where absent
    seeds_ptr,  # int64 [N], or None
    known_ptr,
    mask_ptr,  # [N, P]
    score_ptr,
    history_ptr,  # [3, N, C, P]
    next_x_ptr,
    x0_ptr,
    next_history_ptr,
    inputs_ptr,  # [COPIES N, C, P], any float type, strides below
    guidance_ptr,  # one (stride 0) or [N]; None: guidance_scale is used
    guidance_scale,
    stream,
    images,
    rows,
    elements,  # C P
    positions,  # P
    step_stride,
    guidance_stride,
    model_image,
    model_channel,
    model_position,
    input_image,
    input_channel,
    input_position,
    GUIDED: tl.constexpr,
    CLIP: tl.constexpr,
    REMEMBER_EPS: tl.constexpr,
    MODEL_DENSE: tl.constexpr,  # channels and positions without gaps, in this order
    INPUT_DENSE: tl.constexpr,
    COPIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    at = first + tl.arange(0, BLOCK)
    inside = at < elements
    here = image * elements + at
    channel = at // positions
    position = at % positions

    row = tl.load(step_ptr + image * step_stride)
    valid = (row >= 0) & (row < rows)  # a step outside the table gives NaN instead of reading other memory
    table = table_ptr + tl.where(valid, row, 0) * 13
    nan = float("nan")
    sqrt_recip = tl.load(table, mask=valid, other=nan)
    sqrt_recipm1 = tl.load(table + 1, mask=valid, other=nan)

    model = model_ptr + image * model_image
    if MODEL_DENSE:
        offset = at
        variance_offset = at + elements
    else:
        offset = channel * model_channel + position * model_position
        variance_offset = offset + (elements // positions) * model_channel
    eps = tl.load(model + offset, mask=inside, other=0.0).to(tl.float32)
    if GUIDED:
        other = model + tl.cast(images, tl.int64) * model_image
        without = tl.load(other + offset, mask=inside, other=0.0).to(tl.float32)
        scale = guidance_scale
        if guidance_ptr is not None:
            scale = tl.load(guidance_ptr + image * guidance_stride)
        eps = without + scale * (eps - without)

    x = tl.load(x_ptr + here, mask=inside, other=0.0)
    noisy = sqrt_recip * x
    x0 = noisy - sqrt_recipm1 * eps
    if mask_ptr is not None:
        kept = tl.load(mask_ptr + image * positions + position, mask=inside, other=0.0)
        known = tl.load(known_ptr + here, mask=inside, other=0.0)
        x0 = x0 * (1.0 - kept) + known * kept
    if CLIP:
        x0 = tl.where(x0 < -1.0, -1.0, tl.where(x0 > 1.0, 1.0, x0))  # NaN stays

    v = tl.load(model + variance_offset, mask=inside, other=0.0).to(tl.float32)
    frac = (v + 1.0) * 0.5
    log_variance = frac * tl.load(table + 3, mask=valid, other=nan) + (1.0 - frac) * tl.load(
        table + 2, mask=valid, other=nan
    )
    if score_ptr is not None:
        score = tl.load(score_ptr + here, mask=inside, other=0.0)
        x0 = x0 + tl.load(table + 11) * score
    next_x = tl.load(table + 4) * x + tl.load(table + 5) * x0
    if score_ptr is not None:
        next_x = next_x + tl.load(table + 12) * tl.exp(log_variance) * score
    if history_ptr is not None:
        total = tl.cast(images, tl.int64) * elements
        latest = tl.div_rn(noisy - x0, sqrt_recipm1) if REMEMBER_EPS else x0
        for k in tl.static_range(3):
            # next_history may be history: each prediction is read before it is overwritten.
            old = tl.load(history_ptr + k * total + here, mask=inside, other=0.0)
            next_x = next_x + tl.load(table + 6 + k) * old
            tl.store(next_history_ptr + k * total + here, latest, mask=inside)
            latest = old
    if noise_ptr is not None:
        noise = tl.load(noise_ptr + here, mask=inside, other=0.0)
        next_x = next_x + (tl.load(table + 9) + tl.load(table + 10) * tl.exp(0.5 * log_variance)) * noise
    if seeds_ptr is not None:
        noise = _normals(tl.load(seeds_ptr + image), row, stream, first // 4, BLOCK)
        next_x = next_x + (tl.load(table + 9) + tl.load(table + 10) * tl.exp(0.5 * log_variance)) * noise

    tl.store(x0_ptr + here, x0, mask=inside)
    tl.store(next_x_ptr + here, next_x, mask=inside)
    if inputs_ptr is not None:
        offset = at if INPUT_DENSE else channel * input_channel + position * input_position
        for copy in tl.static_range(COPIES):
            target = inputs_ptr + (copy * tl.cast(images, tl.int64) + image) * input_image + offset
            tl.store(target, next_x.to(inputs_ptr.dtype.element_ty), mask=inside)


POINTERS = {
    **dict.fromkeys(("x_ptr", "table_ptr", "noise_ptr", "known_ptr", "mask_ptr", "score_ptr"), "*fp32"),
    **dict.fromkeys(("history_ptr", "next_x_ptr", "x0_ptr", "next_history_ptr", "guidance_ptr"), "*fp32"),
    **dict.fromkeys(("step_ptr", "seeds_ptr"), "*i64"),
}
# Three typical loops with the operands that each leaves out: DDPM as pipelines run it, inpainting with PLMS, DDIM guided by CLIP.
WITHOUT = {
    "DDPM": ("noise_ptr", "known_ptr", "mask_ptr", "score_ptr", "history_ptr", "next_history_ptr", "guidance_ptr"),
    "PLMS, inpainting": ("noise_ptr", "seeds_ptr", "score_ptr"),
    "DDIM, CLIP": ("seeds_ptr", "known_ptr", "mask_ptr", "history_ptr", "next_history_ptr", "inputs_ptr", "guidance_ptr"),
}  # fmt: skip


def builds(loop: str, dense: bool, element: str = "fp16", cut: Plan = PLANS[0]) -> list[Build]:
    """The configuration that a loop compiles, for images whose number of pixels is a multiple of 16.

    Args:
        loop: a key of ``WITHOUT``.
        dense: whether the network's output and its next input are contiguous; channels-last otherwise.
        element: the Triton type of the network's output and input.
    """
    absent = dict.fromkeys(WITHOUT[loop])
    copies = 0 if "inputs_ptr" in absent else 2
    values = absent | {
        "GUIDED": True, "CLIP": True, "REMEMBER_EPS": "history_ptr" not in absent, "MODEL_DENSE": dense,
        "INPUT_DENSE": dense or not copies, "COPIES": copies, "BLOCK": cut.block,
    }  # fmt: skip
    unit = "position" if dense else "channel"  # Triton makes a constant of a stride of 1
    values |= {f"model_{unit}": 1} | ({f"input_{unit}": 1} if copies else {})
    types = dict.fromkeys(guided_step_kernel.arg_names, "i32") | POINTERS | {"guidance_scale": "fp32"}
    types |= dict.fromkeys(("model_ptr", "inputs_ptr"), f"*{element}")
    arguments = {name: type_name for name, type_name in types.items() if name not in values}
    layout = "dense" if dense else "channels-last"
    return [
        Build(
            guided_step_kernel,
            f"{loop}, {element}, {layout}",
            arguments,
            values,
            cut.warps,
            fusion=False,
            sizes=("elements", "positions"),
        )
    ]


def default_builds() -> list[Build]:
    """The three loops of ``WITHOUT``, with a network that computes channels-last in fp16."""
    return [build for loop in WITHOUT for build in builds(loop, dense=False)]


def plans_of(call: Any) -> tuple[Plan, ...]:
    """:data:`PLANS`, whatever the call (:class:`glide_fast.ops.guided_step.arguments.Call`)."""
    return PLANS


def candidate_builds() -> list[Build]:
    """Every plan of these."""
    return [build for cut in PLANS for loop in WITHOUT for build in builds(loop, dense=False, cut=cut)]


def shipped_builds() -> list[Build]:
    """The three loops of ``WITHOUT`` in every type and both layouts."""
    return [
        build
        for loop in WITHOUT
        for dense in (True, False)
        for element in ("fp16", "bf16", "fp32")
        for build in builds(loop, dense, element)
    ]
