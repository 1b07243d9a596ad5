"""How much of a multiprocessor a kernel can fill, calculated from what its compiler says of it; nothing is run.

The limits are those of NVIDIA's CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from typing import NamedTuple

REGISTERS = 65536  # of a multiprocessor
WARPS = 64
BLOCKS = 32


class Device(NamedTuple):
    """What differs between the devices."""

    multiprocessors: int  # of an A100, an H100 (SXM) and a B200
    shared_bytes: int  # of a multiprocessor
    shared_of_a_block: int  # at most
    clusters: bool  # of blocks


DEVICES = {
    80: Device(108, 164 * 1024, 163 * 1024, False),
    90: Device(132, 228 * 1024, 227 * 1024, True),
    100: Device(148, 228 * 1024, 227 * 1024, True),
}
"""By compute capability, times ten."""


def blocks_per_multiprocessor(target: int, warps: int, registers: int, shared: int) -> int:
    """How many blocks fit at once.

    Registers go to a warp in units of 256, and a block's shared memory costs 1 KiB more than it asks for.

    Args:
        target: a key of ``DEVICES``.
        warps: of a block.
        registers: of a thread.
        shared: bytes of a block.
    """
    by_registers = REGISTERS // (warps * -(-registers * 32 // 256) * 256)
    by_shared = DEVICES[target].shared_bytes // (-(-shared // 128) * 128 + 1024)
    return min(by_registers, by_shared, WARPS // warps, BLOCKS)
