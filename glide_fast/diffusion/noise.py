"""Standard normals that are a function of (seed, stream, step, element): Philox4x32-10 (Salmon et al. 2011) and Box-Muller.

A counter-based generator has no state, so an image's noise does not depend on the images around it, on the order in which
numbers are asked for, or on the device. This is the definition that kernels must reproduce:

    key     = (seed mod 2^32, seed div 2^32)
    counter = (e div 4, step, stream, 0) for element e of an image, counted in [C, H, W] order whatever the memory layout
    r0..r3  = Philox4x32-10(counter, key), as unsigned 32-bit integers
    u_i     = r_i 2^-32 + 2^-33, in (0, 1], r_i rounded to fp32 first
    elements 4k, 4k + 1, 4k + 2, 4k + 3 = R0 cos(2 pi u1), R0 sin(2 pi u1), R1 cos(2 pi u3), R1 sin(2 pi u3)
    with R0 = sqrt(-2 ln u0), R1 = sqrt(-2 ln u2), all in fp32

The integers are equal everywhere; the normals agree to the last bits of a device's log, sqrt, sin and cos.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from glide_fast.errors import invalid

Words = tuple[torch.Tensor, ...]

SEED_LIMIT = 2**63
"""Seeds are integers from 0 up to, not including, this."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Streams(NamedTuple):
    """Stream numbers of one stage of a pipeline, so that no two uses of a seed see the same numbers."""

    start: int
    step: int


BASE_STREAMS = Streams(start=0, step=1)
UPSAMPLER_STREAMS = Streams(start=2, step=3)


def _multiply(a: torch.Tensor, constant: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of the 64-bit product of ``a`` (int64 holding 32 bits) and ``constant``.

    In two halves of 16 bits, because the whole product would overflow the signed integer.
    """
    high, low = a * (constant >> 16), a * (constant & 0xFFFF)
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & _MASK


def philox4x32(counter: Words, key: Words) -> Words:
    """Philox4x32 with ten rounds.

    ``counter`` is four and ``key`` two int64 tensors that broadcast, each value in [0, 2^32); the result is four more.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _pair(radius: torch.Tensor, angle: torch.Tensor) -> list[torch.Tensor]:
    """Two independent standard normals from two words (Box & Muller 1958)."""
    u = radius.float() * 2.0**-32 + 2.0**-33
    theta = (angle.float() * 2.0**-32 + 2.0**-33) * (2 * math.pi)
    r = torch.sqrt(-2.0 * torch.log(u))
    return [r * torch.cos(theta), r * torch.sin(theta)]


def philox_normal(
    seeds: torch.Tensor, step: int | torch.Tensor, shape: tuple[int, ...], *, stream: int = 0
) -> torch.Tensor:
    """Standard normals for N images.

    Args:
        seeds: int64 ``[N]``; the 64 bits of each count, so a negative one is the unsigned number of the same bits.
        step: which draw, in [0, 2^32); an integer tensor (``[]`` or ``[N]``) is read on its device, without a synchronisation.
        shape: of one image, usually (C, H, W).
        stream: in [0, 2^32); see :class:`Streams`.

    Returns:
        fp32 ``[N, *shape]`` on the device of ``seeds``.

    Raises:
        InvalidInputError: for seeds that are not an int64 vector, or a shape without elements.
    """
    if seeds.dtype != torch.int64 or seeds.dim() != 1:
        raise invalid("seeds", f"{seeds.dtype} {tuple(seeds.shape)}", "an int64 tensor [N]")
    elements = math.prod(shape)
    if elements < 1:
        raise invalid("shape", tuple(shape), "positive sizes")
    block = torch.arange((elements + 3) // 4, device=seeds.device)[None]
    zero = torch.zeros_like(block)
    draw = step.to(seeds).view(-1, 1) if isinstance(step, torch.Tensor) else zero + step
    key = ((seeds & _MASK)[:, None], ((seeds >> 32) & _MASK)[:, None])  # >> keeps the sign
    r0, r1, r2, r3 = philox4x32((block, draw, zero + stream, zero), key)
    normals = torch.stack(_pair(r0, r1) + _pair(r2, r3), dim=-1)
    return normals.flatten(1)[:, :elements].reshape(-1, *shape)
