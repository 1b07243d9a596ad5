"""How much of a multiprocessor a kernel can fill, calculated from its registers and shared memory; nothing is run.

The limits are those of NVIDIA's CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

from typing import NamedTuple

REGISTERS = 65536  # of a multiprocessor
WARPS = 64
BLOCKS = 32


class Device(NamedTuple):
    """The limits that differ between devices."""

    multiprocessors: int
    shared_bytes: int  # shared memory of a multiprocessor
    shared_of_a_block: int  # the most shared memory that one block may use, in bytes
    clusters: bool  # whether blocks can form thread-block clusters


DEVICES = {
    80: Device(108, 164 * 1024, 163 * 1024, False),
    90: Device(132, 228 * 1024, 227 * 1024, True),
    100: Device(148, 228 * 1024, 227 * 1024, True),
}
"""An A100, an H100 (SXM) and a B200, by their compute capability times ten."""


def blocks_per_multiprocessor(target: int, warps: int, registers: int, shared: int) -> int:
    """How many blocks of a kernel fit on a multiprocessor at once.

    A warp gets registers in units of 256, and each block takes 1 KiB of shared memory more than the kernel asks for.

    Args:
        target: a key of ``DEVICES``.
        warps: in a block.
        registers: of a thread.
        shared: shared memory of a block, in bytes.
    """
    by_registers = REGISTERS // (warps * -(-registers * 32 // 256) * 256)
    by_shared = DEVICES[target].shared_bytes // (-(-shared // 128) * 128 + 1024)
    return min(by_registers, by_shared, WARPS // warps, BLOCKS)
